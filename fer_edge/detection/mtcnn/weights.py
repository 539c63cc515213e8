"""Convert MTCNN's published weights once into ONNX files, whose sha256 are pinned in this module.

The PyPI package ``mtcnn`` 1.0.0 (MIT licence) carries the weights of Zhang et al. (2016) as Keras arrays.
Its code needs TensorFlow, so only its three data files are read, and they are read without unpickling.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_edge._utils.files import cache_folder, whole_file
from fer_edge._utils.ownership import make_private_folder
from fer_edge.errors import DetectorError, MissingExtraError

_REQUIREMENT = "mtcnn==1.0.0"
_CONVERTER_VERSION = 1


@dataclass(frozen=True)
class Network:
    """One of the three networks of MTCNN.

    Attributes
    ----------
    weights_sha256 : str
        sha256 of the published weights file.
    onnx_sha256 : str
        sha256 of the converted file. onnx 1.16 and 1.23, protobuf 3.20 and 7.36 write the same bytes.
    input_px : int or None
        Side of the input; ``None`` for a network that slides over an image of any size.
    trunk : tuple of (shape, pool)
        Keras weight shapes, ``(kh, kw, in, out)`` or ``(in, out)``. A bias and a PReLU follow each, then
        max pooling of that kernel and stride 2 where ``pool`` is not 0.
    heads : Mapping of str to shape
        Weight shapes of the outputs, in the order of the file. ``score`` is [not a face, face].
    """

    weights_sha256: str
    onnx_sha256: str
    input_px: int | None
    trunk: tuple[tuple[tuple[int, ...], int], ...]
    heads: Mapping[str, tuple[int, ...]]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all arrays, in the order of the file."""
        shapes: list[tuple[int, ...]] = []
        for weight, _ in self.trunk:
            bias = weight[-1:]
            shapes += [weight, bias, (1, 1, *bias) if len(weight) == 4 else bias]
        for weight in self.heads.values():
            shapes += [weight, weight[-1:]]
        return shapes


NETWORKS: Mapping[str, Network] = {
    "pnet": Network(
        weights_sha256="ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
        onnx_sha256="79f6f8ab69bf6c50b56213d9bd83b8e682996d81cd15a0c5ee236194d4ca7f3e",
        input_px=None,
        trunk=(((3, 3, 3, 10), 2), ((3, 3, 10, 16), 0), ((3, 3, 16, 32), 0)),
        heads={"offsets": (1, 1, 32, 4), "score": (1, 1, 32, 2)},
    ),
    "rnet": Network(
        weights_sha256="cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
        onnx_sha256="e011f86278b7c10bf2b95e33b96c818b418466246cedea8397db9375898f7bdd",
        input_px=24,
        trunk=(((3, 3, 3, 28), 3), ((3, 3, 28, 48), 3), ((2, 2, 48, 64), 0), ((576, 128), 0)),
        heads={"offsets": (128, 4), "score": (128, 2)},
    ),
    "onet": Network(
        weights_sha256="94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
        onnx_sha256="8211e32cde3a10cc065dc5938e97e4b8091929dce7235a5ba291ce59071cf499",
        input_px=48,
        trunk=(
            ((3, 3, 3, 32), 3),
            ((3, 3, 32, 64), 3),
            ((3, 3, 64, 64), 2),
            ((2, 2, 64, 128), 0),
            ((1152, 256), 0),
        ),
        heads={"offsets": (256, 4), "landmarks": (256, 10), "score": (256, 2)},
    ),
}


def mtcnn_models() -> Mapping[str, bytes]:
    """Return the contents of the ONNX files ``pnet``, ``rnet`` and ``onet``, converting the weights if necessary.

    The input of each is ``[B, 3, H, W]`` float32 RGB, ``(pixel - 127.5) / 128``. Outputs are ``offsets``
    (x1, y1, x2, y2 in box sides), ``score`` (probability of a face) and, of ``onet``, ``landmarks``
    (x of five points, then y, in box sides), as ``[B, K]``, or ``[B, K, h, w]`` of ``pnet``.

    The files are in the cache folder, under a name that depends on the weights and on this converter.
    Each is read once, and converted again if its sha256 differs from the pinned one. Processes and threads may do
    so concurrently: each file is replaced atomically, by the same bytes.

    Raises
    ------
    DetectorError
        If the weights are altered, or the cache folder cannot be written.
    MissingExtraError
        If the package with the weights is not installed.
    """
    identity = json.dumps([_CONVERTER_VERSION, *(network.weights_sha256 for network in NETWORKS.values())])
    folder = cache_folder() / f"mtcnn-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    paths = {name: folder / f"{name}.onnx" for name in NETWORKS}
    contents = {name: _read_kept(path, NETWORKS[name]) for name, path in paths.items()}
    whole = {name: content for name, content in contents.items() if content is not None}
    return whole if len(whole) == len(paths) else _convert(folder, paths)


def weights_folder() -> Path:
    """Return the folder of the published files without importing the package.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    try:
        package = importlib.metadata.distribution("mtcnn")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(
            f"the detector mtcnn reads its weights from the package {_REQUIREMENT} (extra mtcnn), which is not "
            f"installed. Fix: python -m pip install {_REQUIREMENT}, or choose another detector"
        ) from None
    return Path(str(package.locate_file("mtcnn/assets/weights")))


def read_weights(name: str) -> list[np.ndarray]:
    """Return the float32 arrays of one network in Keras layout, after checking the file's sha256.

    The file is an LZ4 frame around a joblib list: for each array a pickled description with its length, one
    byte with the size of the padding, the padding, and the values. The sha256 fixes the description, so it is
    skipped, and no pickle is executed.

    Raises
    ------
    DetectorError
        If the file is missing or is not the published one.
    """
    path = weights_folder() / f"{name}.lz4"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DetectorError(
            f"the detector weights {path} cannot be read ({error.strerror}). "
            f"Fix: run pip install --force-reinstall {_REQUIREMENT}"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    expected = NETWORKS[name].weights_sha256
    if found != expected:
        raise DetectorError(
            f"{path} is not the published file: expected sha256 {expected[:12]}…, found {found[:12]}…. "
            f"Fix: run pip install --force-reinstall {_REQUIREMENT}"
        )
    try:
        import lz4.frame
    except ImportError as error:
        raise DetectorError(
            f"{path} is compressed with lz4, which is not installed. Fix: run pip install lz4"
        ) from error

    content = lz4.frame.decompress(data)
    arrays = []
    position = 2  # after the pickle protocol
    for shape in NETWORKS[name].shapes:
        _, description_bytes = struct.unpack_from("<cQ", content, position)
        position += 9 + description_bytes
        position += 1 + content[position]
        array = np.frombuffer(content, "<f4", math.prod(shape), position).reshape(shape)
        position += array.nbytes
        arrays.append(array)
    return arrays


def build_onnx(network: Network, arrays: Sequence[np.ndarray]) -> bytes:
    """Return ``network`` with ``arrays`` as a serialized ONNX model, checked."""
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    remaining = iter(arrays)

    def add(operator: str, *operands: str | np.ndarray, output: str = "", **attributes: object) -> str:
        output = output or f"{operator.lower()}{len(nodes)}"
        names = [x if isinstance(x, str) else f"{output}.{i}" for i, x in enumerate(operands)]
        for name, operand in zip(names, operands, strict=True):
            if not isinstance(operand, str):
                constants.append(numpy_helper.from_array(np.ascontiguousarray(operand), name))
        nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def linear(value: str, weight: np.ndarray, bias: np.ndarray, output: str = "") -> str:
        if weight.ndim == 4:
            return add("Conv", value, weight.transpose(3, 2, 0, 1), bias, output=output)
        return add("Gemm", value, weight, bias, output=output)

    value, channels = "input", 3
    for shape, pool in network.trunk:
        weight, bias, slope = next(remaining), next(remaining), next(remaining)
        if len(shape) == 2:  # Keras flattens the map as [width, height, channels]
            side = math.isqrt(shape[0] // channels)
            weight = weight.reshape(side, side, channels, -1).transpose(2, 1, 0, 3).reshape(shape)
            value = add("Flatten", value)
        value = linear(value, weight, bias)
        # PReLU as a·x + (1 - a)·relu(x): ONNX Runtime's PReLU operator takes longer than the convolution.
        slope = slope.reshape(-1, 1, 1) if len(shape) == 4 else slope
        value = add("Add", add("Mul", value, slope), add("Mul", add("Relu", value), 1 - slope))
        if pool:  # Keras pads "same" at the end only, like ceil_mode; all other sizes divide evenly
            value = add("MaxPool", value, kernel_shape=[pool, pool], strides=[2, 2], ceil_mode=1)
        channels = shape[-1]

    for name in network.heads:
        weight, bias = next(remaining), next(remaining)
        if name == "score":  # softmax over two classes = sigmoid of their difference
            difference = linear(value, weight[..., 1:] - weight[..., :1], bias[1:] - bias[:1])
            add("Sigmoid", difference, output=name)
        else:
            linear(value, weight, bias, output=name)

    def port(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    sliding = network.input_px is None
    size = ["height", "width"] if sliding else [network.input_px] * 2
    graph = helper.make_graph(
        nodes,
        "mtcnn",
        [port("input", ["batch", 3, *size])],
        [
            port(
                name,
                ["batch", 1 if name == "score" else shape[-1], *(["rows", "columns"] if sliding else [])],
            )
            for name, shape in network.heads.items()
        ],
        constants,
    )
    # Set explicitly, so that the bytes do not depend on the version of onnx.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _read_kept(path: Path, network: Network) -> bytes | None:
    """Return the converted file, or ``None`` if it is missing or has another sha256."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == network.onnx_sha256 else None


def _convert(folder: Path, paths: Mapping[str, Path]) -> dict[str, bytes]:
    contents = {name: build_onnx(NETWORKS[name], read_weights(name)) for name in paths}
    try:
        make_private_folder(folder)
        for name, path in paths.items():
            with whole_file(path) as part:
                part.write_bytes(contents[name])
    except OSError as error:
        raise DetectorError(
            f"the detector's networks cannot be written to {folder} ({error.strerror}). "
            "Fix: set FER_EDGE_CACHE to a writable folder"
        ) from error
    return contents

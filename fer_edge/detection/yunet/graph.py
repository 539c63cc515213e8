"""Read YuNet's graph from a file, and make the image size dynamic, or the batch dynamic at a fixed size.

The published files fix the batch at 1 and the image at 320 × 320 or 640 × 640, or compute shapes inside the
graph. Only the twelve reshapes that flatten the anchors of a map, one per output, depend on the shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.detection.input_size import with_size
from fer_edge.errors import DetectorError

if TYPE_CHECKING:
    import onnx

STRIDES_PX = (8, 16, 32)
#: Values per anchor: class, objectness, box, five landmarks.
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
OUTPUTS = {f"{head}_{stride}": (head, stride) for head in HEADS for stride in STRIDES_PX}
FIX = "Fix: give a YuNet file with --detector-model FILE, such as face_detection_yunet_2023mar.onnx of OpenCV Zoo"

_MAX_FILE_BYTES = 64 << 20  # published ones have a third of a megabyte
_PROBE_PX = 64
_NODES_BEHIND_RESHAPE = 4


class YuNetModel:
    """The network of one file.

    Parameters
    ----------
    path : Path
        An ONNX file with the input ``[B, 3, H, W]`` BGR in [0, 255] and the outputs ``cls_S``, ``obj_S``,
        ``bbox_S`` and ``kps_S`` for the strides S = 8, 16, 32, each ``[B, anchors, numbers]``. No other file
        that it refers to is read.

    Raises
    ------
    DetectorError
        If the file is missing, is not ONNX, or holds another network.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model = self._read()
        self._check_shapes()

    def free(self) -> onnx.ModelProto:
        """Return the network for images of any size that is a multiple of 32."""
        return self._with_size("height", "width", dict.fromkeys(STRIDES_PX))

    def at(self, height: int, width: int) -> onnx.ModelProto:
        """Return the network for images of one size, a multiple of 32, with a dynamic batch."""
        anchors = {stride: (height // stride) * (width // stride) for stride in STRIDES_PX}
        return self._with_size(height, width, anchors)

    def _check_shapes(self) -> None:
        probe = self._with_size(_PROBE_PX, _PROBE_PX, dict.fromkeys(STRIDES_PX))
        for output in probe.graph.output:
            head, stride = OUTPUTS[output.name]
            expected = [(_PROBE_PX // stride) ** 2, HEADS[head]]
            found = [size.dim_value for size in output.type.tensor_type.shape.dim][1:]
            if found != expected:
                raise self._error(
                    f"expected {expected[0]} anchors of {expected[1]} values in {output.name} of an image with "
                    f"{_PROBE_PX} × {_PROBE_PX} pixels, found {found}"
                )

    def _read(self) -> onnx.ModelProto:
        import onnx

        if not self._path.is_file():
            raise DetectorError(f"{self._path} is not a file. {FIX}")
        size = self._path.stat().st_size
        if not 0 < size <= _MAX_FILE_BYTES:
            raise self._error(f"expected 1 to {_MAX_FILE_BYTES} bytes, found {size}")
        try:
            model = onnx.load_model_from_string(self._path.read_bytes())
        except Exception as error:  # errors of protobuf and onnx, without a public base class
            raise self._error("it is not an ONNX file") from error
        graph = model.graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise self._error("its weights are in another file")
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        if len(inputs) != 1 or {value.name for value in graph.output} != set(OUTPUTS):
            raise self._error(
                f"expected one input and the outputs {', '.join(OUTPUTS)}, found the inputs "
                f"{', '.join(value.name for value in inputs)[:100]} and the outputs "
                f"{', '.join(value.name for value in graph.output)[:100]}"
            )
        del graph.input[:]
        graph.input.extend(inputs)
        return model

    def _with_size(
        self, height: int | str, width: int | str, anchors: Mapping[int, int | None]
    ) -> onnx.ModelProto:
        """Return a copy with constant shapes in the reshapes, without the nodes that computed them."""
        import onnx
        from onnx import numpy_helper

        from fer_edge._utils.onnx_files import remove_unused_initializers

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for name, (head, stride) in OUTPUTS.items():
            reshape = self._find_reshape(model.graph, name)
            # A known anchor count is written: TensorRT would not infer it, and treat the size as dynamic.
            count = anchors[stride]
            shape = (0, -1, HEADS[head]) if count is None else (-1, count, HEADS[head])
            reshape.input[1] = f"{name}.shape"
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(shape, np.int64), reshape.input[1])
            )
        _drop_unused_nodes(model.graph)
        remove_unused_initializers(model)
        try:
            return with_size(model, height, width)
        except onnx.shape_inference.InferenceError as error:
            raise self._error(" ".join(str(error).split())[-200:]) from error

    def _find_reshape(self, graph: onnx.GraphProto, output: str) -> onnx.NodeProto:
        """Return the reshape that flattens the anchors of ``output``; a sigmoid may follow it."""
        makers = {name: node for node in graph.node for name in node.output}
        name = output
        for _ in range(_NODES_BEHIND_RESHAPE):
            node = makers.get(name)
            if node is None or not node.input:
                break
            if node.op_type == "Reshape" and len(node.input) == 2:
                return node
            name = node.input[0]
        raise self._error(f"{output} does not come from a reshape")

    def _error(self, reason: str) -> DetectorError:
        return DetectorError(f"{self._path} cannot be read as YuNet ({reason}). {FIX}")


def _drop_unused_nodes(graph: onnx.GraphProto) -> None:
    """Drop nodes that no output depends on; nodes are in topological order."""
    used = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    kept.reverse()
    nodes: Sequence[onnx.NodeProto] = kept
    del graph.node[:]
    graph.node.extend(nodes)

"""TensorRT 10 calibration cache: write ranges in the text format of its INT8 calibrators, for users of DLA.

Not tested on a device. The format has no public specification; it is taken from public files of TensorRT 7 to 10:
a header with the version, then a line per tensor with its scale,

    TRT-100300-EntropyCalibration2
    input: 3c808081
    c1.2/Relu: 3e0f2e06

where the 8 hexadecimal digits are the bits of the 32-bit float ``max(|low|, |high|) / 127``, highest byte
first. TensorRT uses the scales instead of calibrating, and calibrates again if the header is of another
version. TensorRT 11 and TensorRT-RTX have no such calibrators: they, and TensorRT 10 on the GPU, take the
Q/DQ model. The cache is used with the FP32 model, so the engine lacks the bias corrections of the Q/DQ model::

    trtexec --onnx=model.onnx --int8 --fp16 --calib=FILE --useDLACore=0 --allowGPUFallback
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import numpy as np
import onnx

from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import group_ranges
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.errors import CalibrationError

#: Status note to show beside every such file.
STATUS = "not proved on a device: the format is that of public files, no TensorRT has read this one"
#: (major, minor, patch) of JetPack 6, the TensorRT 10 for boards with a DLA.
JETPACK_6 = (10, 3, 0)
_HEADER = re.compile(r"TRT-[0-9]+-[A-Za-z0-9]+")
# A name may contain colons and spaces: the last ": " ends it.
_FIX = "Fix: write the cache again from the ranges"
_LINE = re.compile(r"(?P<name>.*\S): (?P<bits>[0-9a-fA-F]{8})")


def write_calibration_cache(
    ranges: Ranges, model: onnx.ModelProto, tensorrt: tuple[int, int, int] = JETPACK_6
) -> str:
    """Return the cache of ``model`` as text.

    Parameters
    ----------
    ranges : Ranges
        Activation ranges of ``model``.
    model : onnx.ModelProto
        The FP32 model; tensors that share a scale there share one here.
    tensorrt : (int, int, int)
        TensorRT version that will read it, 10.x.

    Raises
    ------
    CalibrationError
        If a tensor has no range, a name cannot be written, or the version is not 10.
    """
    major, minor, patch = tensorrt
    if major != 10:
        raise CalibrationError(
            f"calibration caches are for TensorRT 10, found version {'.'.join(map(str, tensorrt))}. "
            "Fix: give the Q/DQ model to later versions"
        )
    dialect, placed = DIALECTS["tensorrt"], place(model, ranges.placement)
    scales = {
        name: dialect.scale_and_zero_point(r.low, r.high)[0]
        for name, r in group_ranges(placed.groups, ranges.tensors).items()
    }
    for node in placed.graph.nodes:
        # TensorRT expects a scale in front of a ReLU too; that of its output covers all values that the ReLU keeps.
        if node.op_type == "Relu" and node.output[0] in scales:
            scales.setdefault(node.input[0], scales[node.output[0]])
    lines = [f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2"]
    for name, scale in sorted(scales.items()):
        line = f"{name}: {struct.pack('>f', scale).hex()}"
        if _LINE.fullmatch(line) is None or not name.isprintable():
            raise CalibrationError(
                f"the tensor name {name!r} cannot be written to a calibration cache. Fix: rename it in the ONNX file"
            )
        lines.append(line)
    return "\n".join(lines) + "\n"


def read_calibration_cache(text: str) -> Mapping[str, float]:
    """Return tensor name → scale.

    Raises
    ------
    CalibrationError
        If there is no header, a line has another form, a tensor is repeated, or a scale is not positive and finite.
    """
    header, *lines = text.removesuffix("\n").split("\n")
    if _HEADER.fullmatch(header) is None:
        raise CalibrationError(
            f"expected the header of a calibration cache, such as TRT-100300-EntropyCalibration2, found {header[:80]!r}. "
            f"{_FIX}"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        found = _LINE.fullmatch(line)
        if found is None:
            raise CalibrationError(
                f"expected 'tensor: 8 hexadecimal digits' in line {number} of the calibration cache, found {line[:80]!r}. "
                f"{_FIX}"
            )
        name, scale = found["name"], struct.unpack(">f", bytes.fromhex(found["bits"]))[0]
        if name in scales:
            raise CalibrationError(f"line {number} of the calibration cache repeats {name}. {_FIX}")
        if not (np.isfinite(scale) and scale > 0):
            raise CalibrationError(
                f"expected a positive scale of {name} in line {number} of the calibration cache, found {scale}. {_FIX}"
            )
        scales[name] = scale
    return scales

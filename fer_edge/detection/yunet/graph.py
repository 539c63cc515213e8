"""Convert a published YuNet file to the form that the detector runs: images of any size, one output per stride.

The published files fix the batch at 1 and the image at 320 × 320 or 640 × 640, or compute shapes inside the graph, and
have twelve outputs. Each of these ends in a transposition and a reshape, which flatten a map to anchors; without them
nothing depends on the size, and the four maps of a stride become one. A network takes 10 to 15 % less time then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fer_edge.detection.input_size import serialize, set_shape, with_size
from fer_edge.errors import DetectorError

if TYPE_CHECKING:
    import onnx

STRIDES_PX = (8, 16, 32)
#: Channels of a map: class and objectness as logits, box, five landmarks.
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
#: Outputs of a converted file, ``[B, 16, H / stride, W / stride]``.
MAPS = {f"maps_{stride}": stride for stride in STRIDES_PX}
FIX = "Fix: give a YuNet file with --detector-model FILE, such as face_detection_yunet_2023mar.onnx of OpenCV Zoo"

_PROBE_PX = 64
_CHANNELS = sum(HEADS.values())
_TO_LAST = [0, 2, 3, 1]
_LOGITS = ("cls", "obj")


def convert(content: bytes, name: str) -> bytes:
    """Return a YuNet file with the input ``[B, 3, H, W]``, sides in multiples of 32, and the outputs :data:`MAPS`.

    Parameters
    ----------
    content : bytes
        An ONNX file with the input ``[B, 3, H, W]`` BGR in [0, 255] and the outputs ``cls_S``, ``obj_S``, ``bbox_S``
        and ``kps_S`` for the strides S = 8, 16, 32, each ``[B, anchors, numbers]``; or a converted one. No other file
        that it refers to is read.
    name : str
        Name of the file, for messages.

    Raises
    ------
    DetectorError
        If it is not ONNX, or holds another network.
    """
    return _Conversion(content, name).run()


def at_size(content: bytes, height: int, width: int) -> bytes:
    """Return a converted file for images of one size, with a dynamic batch."""
    import onnx

    return serialize(with_size(onnx.load_model_from_string(content), height, width))


class _Conversion:
    def __init__(self, content: bytes, name: str) -> None:
        import onnx

        self._name = name
        try:
            self._model = onnx.load_model_from_string(content)
        except Exception as error:  # errors of protobuf and onnx, without a public base class
            raise self._error("it is not an ONNX file") from error
        self._graph = self._model.graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in self._graph.initializer):
            raise self._error("its weights are in another file")
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._makers = {value: node for node in self._graph.node for value in node.output}

    def run(self) -> bytes:
        from fer_edge._utils.onnx_files import remove_unused_initializers

        inputs = [value for value in self._graph.input if value.name not in self._constants]
        outputs = {value.name for value in self._graph.output}
        flat = {f"{head}_{stride}": (head, stride) for head in HEADS for stride in STRIDES_PX}
        if len(inputs) != 1 or outputs not in (set(flat), set(MAPS)):
            raise self._error(
                f"expected one input and the outputs {', '.join(flat)}, found the inputs "
                f"{', '.join(value.name for value in inputs)[:100]} and the outputs "
                f"{', '.join(value.name for value in self._graph.output)[:100]}"
            )
        del self._graph.input[:]
        self._graph.input.extend(inputs)
        if outputs == set(flat):
            maps = {name: self._find_map(name, head) for name, (head, _) in flat.items()}
            self._set_outputs(maps.values())
            self._check({maps[name]: (HEADS[head], stride) for name, (head, stride) in flat.items()})
            for name, stride in MAPS.items():
                self._merge([maps[f"{head}_{stride}"] for head in HEADS], name)
            self._set_outputs(MAPS)
            _drop_unused_nodes(self._graph)
            remove_unused_initializers(self._model)
        self._check({name: (_CHANNELS, stride) for name, stride in MAPS.items()})
        result = self._with_size("height", "width")
        # The names that shape inference gives to dimensions depend on the version of onnx.
        del result.graph.value_info[:]
        for output in result.graph.output:
            stride = MAPS[output.name]
            set_shape(output, ["batch", _CHANNELS, f"height_{stride}", f"width_{stride}"])
        return serialize(result)

    def _find_map(self, output: str, head: str) -> str:
        """Return the map ``[B, numbers, h, w]`` that a transposition and a reshape flatten to ``output``."""
        expected = ["Transpose", "Reshape", *(["Sigmoid"] if head in _LOGITS else [])]
        name, order = output, []
        for operator in reversed(expected):
            node = self._makers.get(name)
            if node is None or node.op_type != operator or not node.input:
                raise self._error(f"{output} does not come from {', '.join(expected)}")
            name = node.input[0]
            order = [list(entry.ints) for entry in node.attribute if entry.name == "perm"]
        if order != [_TO_LAST]:
            raise self._error(
                f"expected the order {_TO_LAST} in the transposition of {output}, found {order}"
            )
        return name

    def _merge(self, maps: Sequence[str], output: str) -> None:
        """Add the node that joins four maps along the channels, or two convolutions that compute all of them."""
        import onnx
        from onnx import helper

        pairs = [self._convolutions(name) for name in maps]
        first = [pair[0] for pair in pairs if pair]
        last = [pair[1] for pair in pairs if pair]
        alike = len(first) == len(maps) and all(
            node.input[0] == first[0].input[0] and _settings(node) == _settings(first[0]) for node in first
        )
        if not alike or any(_settings(node) != _settings(last[0]) for node in last):
            self._graph.node.append(helper.make_node("Concat", list(maps), [output], axis=1))
            return
        # Convolutions of 1, 1, 4 and 10 channels take as long as one of 16.
        value = first[0].input[0]
        for i, (nodes, result) in enumerate(((first, f"{output}.mixed"), (last, output))):
            joined = onnx.NodeProto()
            joined.CopyFrom(nodes[0])
            joined.name, joined.input[0], joined.output[0] = result, value, result
            for position, kind in ((1, "weight"), (2, "bias")):
                joined.input[position] = f"{output}.{kind}{i}"
                self._join([node.input[position] for node in nodes], joined.input[position])
            for entry in joined.attribute:
                if entry.name == "group" and nodes is last:
                    entry.i = _CHANNELS
            self._graph.node.append(joined)
            value = result

    def _convolutions(self, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """Return the dense and the depthwise convolution that compute a map, ``None`` if others do."""
        last = self._makers.get(name)
        first = self._makers.get(last.input[0]) if last is not None and last.input else None
        if last is None or first is None:
            return None
        for node in (first, last):
            if node.op_type != "Conv" or len(node.input) != 3 or not {*node.input[1:]} <= {*self._constants}:
                return None
        channels = self._constants[last.input[1]].dims[0]
        depthwise = _group(last) == channels and self._constants[last.input[1]].dims[1] == 1
        return (first, last) if depthwise and _group(first) == 1 else None

    def _join(self, names: Sequence[str], result: str) -> None:
        import numpy as np
        from onnx import numpy_helper

        arrays = [numpy_helper.to_array(self._constants[name]) for name in names]
        self._graph.initializer.append(numpy_helper.from_array(np.concatenate(arrays), result))

    def _set_outputs(self, names: Iterable[str]) -> None:
        from onnx import TensorProto, helper

        del self._graph.output[:]
        self._graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
        )

    def _check(self, expected: Mapping[str, tuple[int, int]]) -> None:
        for output in self._with_size(_PROBE_PX, _PROBE_PX).graph.output:
            channels, stride = expected[output.name]
            side = _PROBE_PX // stride
            found = [size.dim_value for size in output.type.tensor_type.shape.dim][1:]
            if found != [channels, side, side]:
                raise self._error(
                    f"expected maps {[channels, side, side]} for the stride {stride} in an image with "
                    f"{_PROBE_PX} × {_PROBE_PX} pixels, found {found}"
                )

    def _with_size(self, height: int | str, width: int | str) -> onnx.ModelProto:
        import onnx

        try:
            return with_size(self._model, height, width)
        except onnx.shape_inference.InferenceError as error:
            raise self._error(" ".join(str(error).split())[-200:]) from error

    def _error(self, reason: str) -> DetectorError:
        return DetectorError(f"{self._name} cannot be read as YuNet ({reason}). {FIX}")


def _settings(node: onnx.NodeProto) -> list[bytes]:
    """Return the attributes of a convolution but for its groups."""
    return sorted(entry.SerializeToString() for entry in node.attribute if entry.name != "group")


def _group(node: onnx.NodeProto) -> int:
    return next((int(entry.i) for entry in node.attribute if entry.name == "group"), 1)


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

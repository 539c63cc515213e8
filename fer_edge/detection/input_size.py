"""Open the networks of a detector, unchanged on backends with dynamic sizes, else as a copy of fixed size.

TensorRT compiles an engine for one input size; only its batch is dynamic. Other backends run a fully convolutional
network at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.backends import Backend, Session, SessionOptions
from fer_edge.bundle import ModelFile

if TYPE_CHECKING:
    import onnx


def open_network(content: bytes, backend: Backend, settings: SessionOptions) -> Session:
    """Open an ONNX file from memory.

    Raises
    ------
    BackendError
        If the backend cannot load it.
    """
    return backend.open(ModelFile(Path("detector.onnx"), content), settings)


def with_size(model: onnx.ModelProto, height: int | str, width: int | str) -> onnx.ModelProto:
    """Return a copy with the input ``[batch, 3, height, width]`` and all other shapes inferred.

    A size is a number of pixels, or the name of a dynamic dimension.

    Raises
    ------
    onnx.shape_inference.InferenceError
        If the network does not support that size.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    set_shape(result.graph.input[0], ["batch", 3, height, width])
    del result.graph.value_info[:]
    for output in result.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(result, strict_mode=True, data_prop=True)


def serialize(model: onnx.ModelProto) -> bytes:
    """Serialise a model deterministically."""
    return bytes(model.SerializeToString(deterministic=True))


def set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Replace the shape of an input or output; a name is a dynamic dimension."""
    value.type.tensor_type.ClearField("shape")
    for size in shape:
        dimension = value.type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dimension.dim_param = size
        else:
            dimension.dim_value = size

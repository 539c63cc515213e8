"""What backends that compile an ONNX file look up in it first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.bundle import ModelFile
from fer_edge.engines.build.options import precision_name
from fer_edge.errors import EngineError

if TYPE_CHECKING:
    import onnx


def read_graph(model: Path | ModelFile) -> onnx.GraphProto:
    """Return the graph of an ONNX file, without constants that lie in other files.

    Raises
    ------
    EngineError
        If it is none.
    """
    import onnx

    try:
        if isinstance(model, ModelFile):
            return onnx.load_model_from_string(model.content).graph
        return onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's own class, which moved between its versions
        raise EngineError(f"it is no ONNX file: {error}") from error


def precision_of(graph: onnx.GraphProto) -> str:
    """Return the precision of a graph; see :func:`fer_edge.engines.build.options.precision_name`."""
    from onnx import TensorProto

    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    return precision_name(quantised, any(t.data_type == TensorProto.FLOAT16 for t in graph.initializer))


def input_of(graph: onnx.GraphProto) -> tuple[str, tuple[int | None, ...]]:
    """Return name and shape of the only input; the batch is ``None`` where any size goes.

    Raises
    ------
    EngineError
        If there is not one input, or a size but the batch is open.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise EngineError(f"it has {len(inputs)} inputs, not one")
    sizes = tuple(size.dim_value or None for size in inputs[0].type.tensor_type.shape.dim)
    if not sizes or None in sizes[1:]:
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        raise EngineError(f"all sizes of its input but the batch must be fixed, found [{shown}]")
    return inputs[0].name, sizes

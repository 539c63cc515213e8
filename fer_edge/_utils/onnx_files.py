"""ONNX files: read, and written with little memory. onnx is imported where a function needs it, so that sessions start without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.errors import EngineError

if TYPE_CHECKING:
    import onnx

#: Smaller constants stay in the graph: shapes, axes and sizes, whose values loading needs.
_MIN_EXTERNAL_BYTES = 1024


def remove_unused_initializers(model: onnx.ModelProto) -> None:
    """Drop constants that no node reads and no output names, in place; what stays is not copied."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    constants = model.graph.initializer
    for i in reversed(range(len(constants))):
        if constants[i].name not in used:
            del constants[i]


def save_with_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Save ``model`` with its large constants in a file beside it, ``NAME.data``.

    :func:`onnx.save` holds two more copies of all constants while it writes, and a runtime another two while it
    reads such a file. Here it is one constant at a time; ``model`` keeps its values.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    data = path.with_suffix(".data")
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            content = numpy_helper.to_array(tensor).tobytes()
            if len(content) < _MIN_EXTERNAL_BYTES:
                light.graph.initializer.append(tensor)
                continue
            place = {"location": data.name, "offset": str(file.tell()), "length": str(len(content))}
            light.graph.initializer.append(
                TensorProto(
                    name=tensor.name,
                    data_type=tensor.data_type,
                    dims=tensor.dims,
                    data_location=TensorProto.EXTERNAL,
                    external_data=[onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items()],
                )
            )
            file.write(content)
    onnx.save(light, path)


def read_graph(model: Path | bytes) -> onnx.GraphProto:
    """Return the graph of an ONNX file, or of its bytes, without constants that lie in other files.

    Raises
    ------
    EngineError
        If it is none.
    """
    import onnx

    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model).graph
        return onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's own class, which moved between its versions
        raise EngineError(f"it is no ONNX file: {error}") from error


def precision_name(quantised: bool, half: bool) -> str:
    """Return the precision of a network: ``int8`` with Q/DQ, ``fp16`` where it computes in half precision, else ``fp32``."""
    return "int8" if quantised else "fp16" if half else "fp32"


def precision_of(graph: onnx.GraphProto) -> str:
    """Return the precision of a graph; see :func:`precision_name`."""
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

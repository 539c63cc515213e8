"""Reading ONNX files, and writing them with little memory; onnx is imported lazily, so that sessions start without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.errors import EngineError

if TYPE_CHECKING:
    import onnx

_FIX = "Fix: build the bundle again with fer-edge build"
#: Smaller constants stay in the graph: shapes, axes and sizes, whose values are needed while loading.
_MIN_EXTERNAL_BYTES = 1024


def remove_unused_initializers(model: onnx.ModelProto) -> None:
    """Remove initializers that no node reads and no output names, in place and without copying the others."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    constants = model.graph.initializer
    for i in reversed(range(len(constants))):
        if constants[i].name not in used:
            del constants[i]


def save_with_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Save ``model`` with its large constants in a file beside it, ``NAME.data``.

    :func:`onnx.save` holds two more copies of all constants while it writes, and a runtime another two while it
    reads such a file. This function copies one constant at a time; ``model`` keeps its values.
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
    """Return the graph of an ONNX file, or of its bytes, without external data.

    Raises
    ------
    EngineError
        If it is not an ONNX file.
    """
    import onnx

    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model).graph
        return onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's own class, which moved between versions
        raise EngineError(f"it is not an ONNX file ({error}). {_FIX}") from error


def precision_name(quantised: bool, half: bool) -> str:
    """Return the precision of a network: ``int8`` with Q/DQ, ``fp16`` with half precision, else ``fp32``."""
    return "int8" if quantised else "fp16" if half else "fp32"


def precision_of(graph: onnx.GraphProto) -> str:
    """Return the precision of a graph, named as in :func:`precision_name`."""
    from onnx import TensorProto

    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    return precision_name(quantised, any(t.data_type == TensorProto.FLOAT16 for t in graph.initializer))


def input_of(graph: onnx.GraphProto) -> tuple[str, tuple[int | None, ...]]:
    """Return name and shape of the only input; a dynamic batch is ``None``.

    Raises
    ------
    EngineError
        If there is not exactly one input, or a dimension other than the batch is dynamic.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise EngineError(f"it has {len(inputs)} inputs, expected one. {_FIX}")
    sizes = tuple(size.dim_value or None for size in inputs[0].type.tensor_type.shape.dim)
    if not sizes or None in sizes[1:]:
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        raise EngineError(f"all input dimensions except the batch must be fixed, found [{shown}]. {_FIX}")
    return inputs[0].name, sizes

"""ONNX graphs: what export and calibration both need. Not imported by the runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

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

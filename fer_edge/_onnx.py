"""ONNX graphs: what export and calibration both need. Not imported by the runtime."""

from __future__ import annotations

import onnx


def remove_unused_initializers(model: onnx.ModelProto) -> None:
    """Drop constants that no node reads and no output names, in place; what stays is not copied."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    constants = model.graph.initializer
    for i in reversed(range(len(constants))):
        if constants[i].name not in used:
            del constants[i]

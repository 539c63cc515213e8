"""Rewrite an ONNX model to use the plugin: its nodes name the plugin, and the function body is removed.

For an unchanged file, every version of TensorRT uses the function body. A flag that prefers plugins exists since
10.15 and finds only those without a namespace. All versions understand the attributes, and without the function body
a missing plugin is an error instead of a different network.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from fer_edge.engines.plugin import NAME, NAMESPACE, VERSION, find_plugin, require_plugin
from fer_edge.errors import EngineError


def choose_model(path: Path, choice: str, folder: Path) -> tuple[Path, Path | None, int]:
    """Return the file to parse, the plugin to load, and the number of layers that it must compute.

    Parameters
    ----------
    path : Path
        The ONNX file of a bundle; returned unchanged if the plugin is not used.
    choice : {"auto", "required", "none"}
        One of :data:`fer_edge.engines.plugin.PLUGIN_CHOICES`.
    folder : Path
        Folder for the rewritten file.

    Raises
    ------
    PluginMissingError
        If the plugin is required, or named by the environment, and missing.
    EngineError
        If it is required and the file does not have its operator.
    """
    plugin = None
    if choice != "none":
        plugin = require_plugin() if choice == "required" else find_plugin()
    model = _load(path) if plugin else None
    count = name_plugin(model) if model else 0
    if model and count:
        named = folder / "plugin" / path.name  # same name, which messages show
        named.parent.mkdir()
        onnx.save(model, named)
        return named, plugin, count
    if choice == "required":
        raise EngineError(
            f"the plugin is required, but {path.name} does not have its operator. Fix: build without the plugin"
        )
    return path, None, 0


def has_operator(content: bytes) -> bool:
    """Return whether an ONNX file has a node that the plugin computes; False for a damaged file."""
    try:
        return bool(_plugin_nodes(onnx.load_model_from_string(content)))
    except DecodeError:
        return False


def _load(path: Path) -> onnx.ModelProto | None:
    try:
        return onnx.load(path)
    except DecodeError:
        return None  # the compiler reports the error


def _plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if (node.domain, node.op_type) == (NAMESPACE, NAME)]


def name_plugin(model: onnx.ModelProto) -> int:
    """Make TensorRT's parser use the plugin for every node of the operator, in place; return their number."""
    nodes = _plugin_nodes(model)
    for node in nodes:
        attributes = {
            "plugin_namespace": NAMESPACE,
            "plugin_version": VERSION,
            "received": int(len(node.output) > 1),  # the parser creates the plugin before it counts outputs
        }
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    kept = [f for f in model.functions if (f.domain, f.name) != (NAMESPACE, NAME)]
    del model.functions[:]
    model.functions.extend(kept)
    return len(nodes)

"""ONNX for the plugin: the nodes name it, and the function body of standard operators goes.

Of a file as it is, every version of TensorRT takes the function. A flag that prefers plugins came with
10.15 and finds those without a namespace only; the attributes are understood by all versions, and without
the function a plugin that is missing is an error instead of another network.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from fer_edge.engines.plugin import NAME, NAMESPACE, VERSION, find_plugin, require_plugin
from fer_edge.errors import EngineError


def choose_model(path: Path, choice: str, folder: Path) -> tuple[Path, Path | None, int]:
    """Return the file to parse, the plugin to load, and how many layers of the network it must compute.

    Parameters
    ----------
    path : Path
        The ONNX file of a bundle; returned as it is where the plugin is not used.
    choice : {"auto", "required", "none"}
        See :data:`fer_edge.engines.plugin.PLUGIN_CHOICES`.
    folder : Path
        Where a file that names the plugin is written.

    Raises
    ------
    PluginMissingError
        If the plugin is required, or named by the environment, and is not there.
    EngineError
        If it is required and the file has nothing that it computes.
    """
    plugin = None
    if choice != "none":
        plugin = require_plugin() if choice == "required" else find_plugin()
    model = _load(path) if plugin else None
    count = name_plugin(model) if model else 0
    if model and count:
        named = folder / "plugin" / path.name  # the name is what messages show
        named.parent.mkdir()
        onnx.save(model, named)
        return named, plugin, count
    if choice == "required":
        raise EngineError(
            f"the plugin is required, and {path.name} has no operator that it computes: build without the plugin"
        )
    return path, None, 0


def has_operator(content: bytes) -> bool:
    """Return whether an ONNX file has a node that the plugin computes; one that is damaged has none."""
    try:
        return bool(_plugin_nodes(onnx.load_model_from_string(content)))
    except DecodeError:
        return False


def _load(path: Path) -> onnx.ModelProto | None:
    try:
        return onnx.load(path)
    except DecodeError:
        return None  # the compiler says what is wrong with it


def _plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if (node.domain, node.op_type) == (NAMESPACE, NAME)]


def name_plugin(model: onnx.ModelProto) -> int:
    """Let TensorRT's parser take the plugin for every node of the operator, in place; return how many there are."""
    nodes = _plugin_nodes(model)
    for node in nodes:
        attributes = {
            "plugin_namespace": NAMESPACE,
            "plugin_version": VERSION,
            "received": int(len(node.output) > 1),  # the plugin is made before its outputs are counted
        }
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    kept = [f for f in model.functions if (f.domain, f.name) != (NAMESPACE, NAME)]
    del model.functions[:]
    model.functions.extend(kept)
    return len(nodes)

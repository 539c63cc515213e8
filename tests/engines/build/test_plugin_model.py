"""Search for the plugin library, and ONNX models that name the plugin."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from fer_edge.bundle import open_bundle
from fer_edge.engines.build.plugin_model import choose_model, name_plugin
from fer_edge.engines.plugin import (
    LIBRARY,
    NAME,
    NAMESPACE,
    VERSION,
    find_plugin,
    load_plugin,
    require_plugin,
)
from fer_edge.errors import EngineError, PluginMissingError
from fer_edge.export.networks import attention_op
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.system.shell import pip_command


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in its own folder ``source/fer_edge``, without a library."""
    package = tmp_path / "source" / "fer_edge"
    package.mkdir(parents=True)
    monkeypatch.delenv("FER_EDGE_PLUGIN", raising=False)
    monkeypatch.setattr("fer_edge.__file__", str(package / "__init__.py"))
    monkeypatch.setattr("fer_edge.__path__", [str(package)])
    return package


@pytest.fixture(scope="module")
def shipped() -> Path:
    return open_bundle(shipped_bundle()).model_path("fp32", "tensorrt")


def test_the_plugin_is_the_operator() -> None:
    assert (NAMESPACE, NAME) == (attention_op.DOMAIN, attention_op.OP_TYPE)
    assert int(VERSION) == attention_op.OPSET_VERSION


def test_where_the_library_is_looked_for(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = installed.parent / "build" / LIBRARY
    named = tmp_path / "elsewhere.so"
    assert find_plugin() is None
    built.parent.mkdir()
    built.touch()
    assert find_plugin() == require_plugin() == built
    (installed / LIBRARY).touch()
    assert find_plugin() == installed / LIBRARY
    named.touch()
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(named))
    assert find_plugin() == named


@pytest.mark.parametrize(
    ("mode", "sha256", "message"),
    [
        (0o666, None, "mode 0666. can be written by every user, .*, or name another file in FER_EDGE_PLUGIN"),
        (0o644, "0" * 64, "was changed after the engine was built for it"),
        (0o644, hashlib.sha256(b"a library").hexdigest(), "the plugin cannot be loaded .*file too short"),
        (0o644, None, "the plugin cannot be loaded"),
    ],
)
def test_a_library_is_code(tmp_path: Path, mode: int, sha256: str | None, message: str) -> None:
    """A library that others can change, or that differs from that of the engine, is not loaded."""
    library = tmp_path / LIBRARY
    library.write_bytes(b"a library")
    library.chmod(mode)
    with pytest.raises(EngineError, match=message):
        load_plugin(None, library, sha256)
    with pytest.raises(EngineError, match="cannot be read .No such file"):
        load_plugin(None, tmp_path / "missing.so", sha256)


def test_a_missing_library_names_every_path_and_the_command(installed: Path) -> None:
    with pytest.raises(PluginMissingError) as caught:
        require_plugin()
    message = str(caught.value)
    assert isinstance(caught.value, EngineError)
    assert (
        f"tried {installed / LIBRARY}, {installed.parent / 'build' / LIBRARY}. Fix: run FER_EDGE_KERNELS=1 {pip_command('install', '.')}"
        in message
    )
    assert "or set FER_EDGE_PLUGIN to the file, or build without the plugin" in message


def test_a_library_that_was_named_is_not_replaced_by_another(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (installed / LIBRARY).touch()
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(tmp_path / "none.so"))
    for find in (find_plugin, require_plugin):
        with pytest.raises(
            PluginMissingError, match=r"none\.so does not exist. Fix: set FER_EDGE_PLUGIN to the file"
        ):
            find()


def test_the_nodes_name_the_plugin(shipped: Path) -> None:
    before, model = onnx.load(shipped), onnx.load(shipped)
    assert name_plugin(model) == 1
    assert not model.functions
    (node,) = (node for node in model.graph.node if node.domain)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {"plugin_namespace": b"fer_edge", "plugin_version": b"1", "received": 1}
    del node.attribute[:]
    model.functions.extend(before.functions)
    assert model.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_one_output_is_one_output(shipped: Path) -> None:
    model = onnx.load(shipped)
    (node,) = (node for node in model.graph.node if node.domain)
    del node.output[1:]
    name_plugin(model)
    assert {a.name: a.i for a in node.attribute}["received"] == 0


def test_other_functions_stay() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18, "fer_edge" : 1, "other" : 1]>
        agraph (float[n] x) => (float[n] y) { a = other.SelfAttention (x)  y = fer_edge.Half (a) }
        <domain: "other", opset_import: ["" : 18]> SelfAttention (x) => (y) { y = Relu (x) }
        <domain: "fer_edge", opset_import: ["" : 18]> Half (x) => (y) { y = Abs (x) }
    """)
    before = model.SerializeToString(deterministic=True)
    assert name_plugin(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_the_file_of_the_bundle_stays_as_it_is(shipped: Path, installed: Path, tmp_path: Path) -> None:
    """TensorRT parses a copy with the same name; other backends still use the function body."""
    (installed / LIBRARY).touch()
    content = shipped.read_bytes()
    assert choose_model(shipped, "none", tmp_path) == (shipped, None, 0)
    path, plugin, count = choose_model(shipped, "auto", tmp_path)
    assert (path.name, plugin, count) == (shipped.name, installed / LIBRARY, 1)
    assert path.is_relative_to(tmp_path)
    assert shipped.read_bytes() == content
    session = onnxruntime.InferenceSession(shipped, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((2, *session.get_inputs()[0].shape[1:]), np.float32)})


def save_named(path: Path, name: str) -> Path:
    """Constants in every place where a name may stand."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", name], ["y"], name)],
        "small",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        [numpy_helper.from_array(np.zeros(4, np.float32), name)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("name", ["weight", "SelfAttention"])
def test_models_without_the_operator(name: str, installed: Path, tmp_path: Path) -> None:
    model = save_named(tmp_path / "model.onnx", name)
    with pytest.raises(PluginMissingError):
        choose_model(model, "required", tmp_path)
    (installed / LIBRARY).touch()
    assert choose_model(model, "auto", tmp_path) == (model, None, 0)
    with pytest.raises(
        EngineError, match=r"model\.onnx does not have its operator. Fix: build without the plugin"
    ):
        choose_model(model, "required", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"SelfAttention", b"\x08\x09SelfAttention" * 99], ids=["empty", "short", "long"]
)
def test_damaged_files_are_left_to_the_compiler(content: bytes, installed: Path, tmp_path: Path) -> None:
    (installed / LIBRARY).touch()
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    assert choose_model(model, "auto", tmp_path) == (model, None, 0)

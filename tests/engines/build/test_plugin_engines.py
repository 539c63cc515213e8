"""Engines with the TensorRT plugin, built by TensorRT-RTX without a GPU: calls of the plugin, and its failures.

The plugin is compiled by g++ on emulated kernels, and records every call (plugin_recorder.cpp); one engine is
built with the plugin of nvcc.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from places import ROOT

from fer_edge.bundle import RANGES, open_bundle
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import load_ranges
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions, EngineReport
from fer_edge.engines.flavours import FLAVOURS, worker_environment
from fer_edge.errors import EngineError, PluginMissingError, UsageError
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks.attention_op import function_text
from fer_edge.export.onnx.export import export_onnx
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.system.shell import pip_command

RTX = FLAVOURS["tensorrt-rtx"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(RTX.module) is None, reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'"
)
FLOAT, HALF = 0, 1  # nvinfer1::DataType


@pytest.fixture(scope="module")
def recorder(tensorrt_headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to compile the plugin")
    output = tmp_path_factory.mktemp("recorder") / "libfer_edge_plugin.so"
    command = [compiler, "-std=c++20", "-O0", "-pthread", "-fPIC", "-shared", "-fvisibility=hidden"]
    command += [
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-DFER_EDGE_EMULATION",
    ]
    command += [
        "-isystem",
        str(tensorrt_headers),
        "-isystem",
        str(ROOT / "tests" / "kernels" / "emulated_cuda"),
    ]
    command += ["-I", str(ROOT / "kernels"), "-I", str(ROOT / "tests" / "kernels"), "-o", str(output)]
    source = Path(__file__).with_name("plugin_recorder.cpp")
    result = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return output


class Builder:
    """Builds engines in a folder, and reads the recorded calls of the plugin."""

    def __init__(self, folder: Path) -> None:
        self.calls_file, self.engine = folder / "calls", folder / "out" / "net.engine"

    def __call__(self, model: Path, **changes: Any) -> EngineReport:
        chosen = {"flavour": "tensorrt-rtx", "compute_capability": (8, 6), "plugin": "required", **changes}
        report = build_engine(model, self.engine, EngineOptions(**chosen))
        assert report.size_bytes == self.engine.stat().st_size
        return report

    def refused(self, model: Path, **changes: Any) -> str:
        with pytest.raises(EngineError) as caught:
            self(model, **changes)
        assert not self.engine.parent.exists() or not list(self.engine.parent.iterdir())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def builder(recorder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(recorder))
    monkeypatch.setenv("FER_EDGE_TEST_CALLS", str(tmp_path / "calls"))
    return Builder(tmp_path)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The shipped network, 48×48, by precision."""
    folder = tmp_path_factory.mktemp("shipped")
    bundle = open_bundle(shipped_bundle())
    fp32 = bundle.model_path("fp32", "tensorrt")

    def write(precision: str) -> Path:
        path = folder / f"{precision}.onnx"
        if precision == "int8":
            onnx.save(quantise(onnx.load(fp32), load_ranges(bundle.path / RANGES, fp32), "tensorrt"), path)
        else:
            onnx.save(in_half(onnx.load(fp32)) if precision == "fp16" else onnx.load(fp32), path)
        return path

    return write


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network in FP16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def save_attention(
    path: Path,
    channels: int = 16,
    positions: int = 9,
    types: tuple[int, ...] = (TensorProto.FLOAT,) * 4,
    nodes: int = 1,
) -> Path:
    """Attention alone: the operands are the inputs of the graph. Further nodes attend again."""
    rows = (channels // 8, channels // 8, channels, channels)
    names = ("query", "key", "value", "residual")
    inputs = [
        helper.make_tensor_value_info(name, kind, ["n", count, positions])
        for name, kind, count in zip(names, types, rows, strict=True)
    ]
    residuals = ["residual", *(f"out{i}" for i in range(nodes - 1)), "logits"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "SelfAttention", [*names[:3], before, "gamma"], [after], after, domain="fer_edge"
            )
            for before, after in itertools.pairwise(residuals)
        ],
        "attention",
        inputs,
        [helper.make_tensor_value_info("logits", types[3], ["n", channels, positions])],
        [numpy_helper.from_array(np.array(0.5, helper.tensor_dtype_to_np_dtype(types[3])), "gamma")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("fer_edge", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    model.functions.append(onnx.parser.parse_function(function_text()))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_shipped_network(
    precision: str, shipped: Callable[[str], Path], builder: Builder, recorder: Path
) -> None:
    model = shipped(precision)
    report = builder(model, precision=precision)
    assert (report.plugin, report.plugin_layers) == (recorder, 1)
    standard = builder(model, precision=precision, plugin="none")
    assert (standard.plugin, standard.plugin_layers) == (None, 0)
    assert report.weights_memory_bytes == standard.weights_memory_bytes
    assert report.layers < standard.layers
    # Q/DQ stay outside: the plugin reads and writes floats in an INT8 network.
    kind = HALF if precision == "fp16" else FLOAT
    types = {call for call in builder.calls() if call.startswith("getOutputDataTypes")}
    assert types == {"getOutputDataTypes" + 5 * f" {kind}"}


def test_the_order_of_calls(shipped: Callable[[str], Path], builder: Builder) -> None:
    builder(shipped("fp32"))
    calls = builder.calls()
    names = [name for name, _ in itertools.groupby(call.split()[0] for call in calls)]
    assert names[:3] == ["setLoggerFinder", "createPlugin", "getOutputDataTypes"]
    assert set(names[2:-4]) == {"getOutputDataTypes", "getOutputShapes", "clone"}
    last = ["supportsFormatCombination", "configurePlugin", "getWorkspaceSize", "getFieldsToSerialize"]
    assert names[-4:] == last
    counts = Counter(call.split()[0] for call in calls)
    assert counts["createPlugin"] == counts["configurePlugin"] == counts["getWorkspaceSize"] == 1
    # Nothing executes an engine here.
    assert not {"onShapeChange", "attachToContext", "enqueue"} & counts.keys()
    assert calls[1] == "createPlugin 0"  # TensorRTPhase::kBUILD


@pytest.mark.parametrize("batches", [(1, 8, 16), (1, 1, 1), (2, 5, 64)])
def test_profiles_and_workspace(
    batches: tuple[int, int, int], shipped: Callable[[str], Path], builder: Builder
) -> None:
    least, best, most = batches
    builder(shipped("fp32"), min_batch=least, opt_batch=best, max_batch=most)
    calls = builder.calls()
    assert f"configurePlugin {least}/{best}/{most}" in calls
    assert f"getWorkspaceSize {most} {most * 2 * 36 * 4}" in calls  # float32 [max batch, 2, N], N = 6 · 6


@pytest.mark.slow
def test_the_form_of_the_paper(builder: Builder, tmp_path: Path) -> None:
    """224×224, N = 784; one output, which needs no workspace."""
    model = tmp_path / "paper.onnx"
    export_onnx(random_network("conv-attention"), model)
    for precision in ("fp32", "fp16"):
        if precision == "fp16":
            onnx.save(in_half(onnx.load(model)), model)
        report = builder(model, precision=precision)
        assert report.plugin_layers == 1
        assert builder.calls()[-10:].count("getWorkspaceSize 16 0") == 1


@pytest.mark.slow
def test_the_library_that_nvcc_makes(
    shipped: Callable[[str], Path], builder: Builder, compiled_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(compiled_plugin))
    for precision in ("fp32", "fp16", "int8"):
        report = builder(shipped(precision), precision=precision)
        assert (report.plugin, report.plugin_layers) == (compiled_plugin, 1)
    assert not builder.calls_file.exists()


def test_every_node_is_a_layer_of_its_own(builder: Builder, tmp_path: Path) -> None:
    assert builder(save_attention(tmp_path / "two.onnx", nodes=2)).plugin_layers == 2


def test_without_the_plugin_its_library_is_not_loaded(
    shipped: Callable[[str], Path], builder: Builder
) -> None:
    builder(shipped("fp32"), plugin="none")
    assert not builder.calls_file.exists()


def test_auto_uses_the_plugin_where_it_is(
    shipped: Callable[[str], Path], builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert builder(shipped("fp32"), plugin="auto").plugin_layers == 1
    monkeypatch.delenv("FER_EDGE_PLUGIN")
    monkeypatch.setattr("fer_edge.engines.plugin._candidates", lambda: [tmp_path / "none.so"])
    report = builder(shipped("fp32"), plugin="auto")
    assert (report.plugin, report.plugin_layers) == (None, 0)


def test_the_flag_alone_would_take_the_function(
    shipped: Callable[[str], Path], recorder: Path, tmp_path: Path
) -> None:
    """The reason to rewrite the nodes: TensorRT silently ignores a plugin with a namespace."""
    code = """
        import sys
        import tensorrt_rtx as trt
        log = trt.Logger(trt.Logger.ERROR)
        network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        trt.get_plugin_registry().load_library(sys.argv[1])
        parser = trt.OnnxParser(network, log)
        parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
        assert parser.parse_from_file(sys.argv[2])
        print(*(network.get_layer(i).type.name for i in range(network.num_layers)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), recorder, shipped("fp32")],
        env=worker_environment(RTX, tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "SOFTMAX" in result.stdout.split()
    assert "PLUGIN_V3" not in result.stdout.split()


# ---- faults


def test_a_plugin_that_refuses_all_formats(
    shipped: Callable[[str], Path], builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_TEST_FAULT", "formats")
    message = builder.refused(shipped("fp32"))
    assert "the compiler rejects the network" in message
    assert "Failed to find any supported plugin" in message


def test_a_plugin_that_wants_more_memory_than_there_is(
    shipped: Callable[[str], Path], builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_TEST_FAULT", "workspace")
    assert "the compiler rejects the network" in builder.refused(shipped("fp32"))


def test_a_plugin_of_another_version(
    shipped: Callable[[str], Path], builder: Builder, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_TEST_FAULT", "version")
    message = builder.refused(shipped("fp32"))
    assert (
        f"{recorder} does not register the plugin fer_edge::SelfAttention, version 1, with tensorrt_rtx"
        in message
    )
    assert f"FER_EDGE_KERNELS=1 {pip_command('install', '.')}" in message


@pytest.mark.parametrize("plugin", ["auto", "required"])
def test_a_missing_library(
    plugin: str,
    shipped: Callable[[str], Path],
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(tmp_path / "gone.so"))
    with pytest.raises(PluginMissingError, match=r"gone\.so does not exist"):
        builder(shipped("fp32"), plugin=plugin)


def test_files_that_are_no_plugin(
    shipped: Callable[[str], Path], builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, empty = tmp_path / "text.so", tmp_path / "empty.so"
    text.write_text("not a library\n")
    subprocess.run(["g++", "-shared", "-fPIC", "-xc++", "/dev/null", "-o", empty], check=True)
    for path, expected in (
        (text, "the plugin cannot be loaded"),
        (empty, "is not a TensorRT plugin (it lacks getCreators)"),
    ):
        monkeypatch.setenv("FER_EDGE_PLUGIN", str(path))
        message = builder.refused(shipped("fp32"), plugin="auto")
        assert expected in message
        assert str(path) in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 20}, "channels must be a multiple of 8 from 8 to 512, found 20"),
        ({"channels": 520}, "channels must be a multiple of 8 from 8 to 512, found 520"),
        (
            {"types": (TensorProto.FLOAT16, *[TensorProto.FLOAT] * 3)},
            "all inputs must be float or all half, found type 0 as input 1 and type 1 as input 0",
        ),
        (
            {"types": (TensorProto.BFLOAT16,) * 4},
            "all inputs must be float or all half, found type 7 as input 0",
        ),
    ],
    ids=["not a multiple", "too many", "mixed", "bfloat16"],
)
def test_what_the_plugin_refuses_is_in_the_message(
    changes: dict[str, Any], message: str, builder: Builder, tmp_path: Path
) -> None:
    model = save_attention(tmp_path / "model.onnx", **changes)
    assert f"fer_edge::SelfAttention: {message}" in builder.refused(model)


def test_required_of_a_network_without_attention(builder: Builder, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
    )
    model = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), model)
    assert "relu.onnx does not have its operator" in builder.refused(model)
    assert builder(model, plugin="auto").plugin is None


def test_a_choice_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="unknown choice for the plugin 'require'.*did you mean 'required'"):
        EngineOptions(plugin="require")

"""Engines built by TensorRT-RTX without a GPU, and all failures of a build."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fer_edge.bundle import RANGES, open_bundle
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import load_ranges
from fer_edge.engines.build import builder, worker
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions, EngineReport
from fer_edge.engines.flavours import FLAVOURS, worker_environment
from fer_edge.errors import EngineError, UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.system.memory import FreeMemory

RTX = FLAVOURS["tensorrt-rtx"]
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec(RTX.module) is None,
    reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'",
)


def options(**changes: Any) -> EngineOptions:
    return EngineOptions(**{"flavour": "tensorrt-rtx", "compute_capability": (8, 6), **changes})


@pytest.fixture(scope="module")
def fp32() -> Path:
    """The shipped network, whose attention is a custom operator with a function body."""
    return open_bundle(shipped_bundle()).model_path("fp32", "tensorrt")


@pytest.fixture(scope="module")
def q_dq(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The shipped network in INT8, by dialect."""
    folder = tmp_path_factory.mktemp("q_dq")
    ranges = load_ranges(open_bundle(shipped_bundle()).path / RANGES, fp32)

    def write(dialect: str) -> Path:
        path = folder / f"{dialect}.onnx"
        onnx.save(quantise(onnx.load(fp32), ranges, dialect), path)
        return path

    return write


def save_small(
    path: Path, operator: str = "Relu", domain: str = "", batch: str | int = "n", kind: type = np.float32
) -> Path:
    """A dense layer behind one operator, over 4 values."""
    weight = numpy_helper.from_array(np.eye(4, dtype=kind), "weight")
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["input"], ["hidden"], "first", domain=domain),
            helper.make_node("MatMul", ["hidden", "weight"], ["logits"], "second"),
        ],
        "small",
        [helper.make_tensor_value_info("input", weight.data_type, [batch, 4])],
        [helper.make_tensor_value_info("logits", weight.data_type, [batch, 4])],
        [weight],
    )
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def initializer_bytes(path: Path) -> int:
    return sum(numpy_helper.to_array(t).nbytes for t in onnx.load(path).graph.initializer)


def build_and_fail(onnx_file: Path, folder: Path, chosen: EngineOptions, **keywords: Any) -> str:
    """Return the error message; no file of the engine may be left."""
    output = folder / "out" / "net.engine"
    with pytest.raises(EngineError) as caught:
        build_engine(onnx_file, output, chosen, **keywords)
    assert not output.parent.exists() or not list(output.parent.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_rtx
def test_the_shipped_network_builds(fp32: Path, tmp_path: Path) -> None:
    assert {node.op_type for node in onnx.load(fp32).graph.node if node.domain} == {"SelfAttention"}
    steps: list[tuple[str, int, int]] = []
    log = tmp_path / "logs" / "build.log"
    report = build_engine(fp32, tmp_path / "net.engine", options(log=log), lambda *step: steps.append(step))
    assert report.path.stat().st_size == report.size_bytes > report.weights_memory_bytes
    assert report.weights_memory_bytes == pytest.approx(initializer_bytes(fp32), rel=0.02)
    assert 50e6 < report.peak_memory_bytes < 1e9
    assert report.layers >= len(onnx.load(fp32).graph.node)
    assert report.versions[RTX.module] == importlib.metadata.version("tensorrt-rtx-cu13")
    assert (
        report.log_tail
        == tuple(line.strip()[:300] for line in log.read_text().splitlines() if line.strip())[
            -len(report.log_tail) :
        ]
    )
    assert f"Total Weights Memory: {report.weights_memory_bytes} bytes" in log.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"net.engine", "logs"}
    assert report.to_dict()["options"]["compute_capability"] == [8, 6]
    last = {stage: (done, total) for stage, done, total in steps}
    assert len(last) > 3
    assert all(done == total for done, total in last.values())


@needs_rtx
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (12, 0), (12, 1)])
def test_other_devices(capability: tuple[int, int], tmp_path: Path) -> None:
    model = save_small(tmp_path / "ein modell – 1.onnx")
    report = build_engine(model, tmp_path / "net.engine", options(compute_capability=capability))
    assert report.size_bytes == report.path.stat().st_size


@needs_rtx
def test_int8_is_stored_in_int8(fp32: Path, q_dq: Callable[[str], Path], tmp_path: Path) -> None:
    report = build_engine(q_dq("tensorrt"), tmp_path / "net.engine", options(precision="int8"))
    assert report.weights_memory_bytes < 0.35 * initializer_bytes(fp32)


@needs_rtx
def test_the_name_of_the_precision_must_be_true(
    fp32: Path, q_dq: Callable[[str], Path], tmp_path: Path
) -> None:
    wrong = {"fp32": ("int8", "fp16"), "int8": ("fp32", "fp16"), "fp16": ("fp32", "int8")}
    models = {
        "fp32": fp32,
        "int8": q_dq("tensorrt"),
        "fp16": save_small(tmp_path / "half.onnx", kind=np.float16),
    }
    for true, names in wrong.items():
        for name in names:
            message = build_and_fail(models[true], tmp_path, options(precision=name))
            assert f"expected a model of precision {name}, found {true}" in message


@needs_rtx
def test_the_cpu_dialect_is_refused(q_dq: Callable[[str], Path], tmp_path: Path) -> None:
    message = build_and_fail(q_dq("cpu"), tmp_path, options(precision="int8"))
    assert "input/Q" in message
    assert "Fix: give signed symmetric Q/DQ with positive scales, as in model.int8.tensorrt.onnx" in message


@needs_rtx
def test_damaged_files(fp32: Path, tmp_path: Path) -> None:
    data = fp32.read_bytes()
    for name, content in {"half": data[: len(data) // 2], "empty": b"", "text": b"not ONNX\n" * 99}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert f"{name}.onnx cannot be parsed" in build_and_fail(path, tmp_path, options()), name


@needs_rtx
def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    message = build_and_fail(save_small(tmp_path / "a.onnx", "Frobnicate", "elsewhere"), tmp_path, options())
    assert "Frobnicate" in message
    assert "this version does not know the operator" in message


@needs_rtx
def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    message = build_and_fail(save_small(tmp_path / "a.onnx", batch=1), tmp_path, options())
    assert (
        "expected a dynamic batch (-1) and otherwise static dimensions for the input input, found (1, 4)"
        in message
    )


@needs_rtx
@pytest.mark.parametrize("capability", [(8, 7), (9, 0), (10, 0), (11, 0)])
def test_devices_that_build_for_themselves(capability: tuple[int, int], tmp_path: Path) -> None:
    model = save_small(tmp_path / "a.onnx")
    message = build_and_fail(model, tmp_path, options(compute_capability=capability))
    assert "build on the device itself with TensorRT" in message


@needs_rtx
def test_a_device_that_does_not_exist(tmp_path: Path) -> None:
    message = build_and_fail(save_small(tmp_path / "a.onnx"), tmp_path, options(compute_capability=(6, 8)))
    assert message == ("unknown compute capability 6.8. Fix: give one of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1")


@needs_rtx
def test_turing_takes_fp16_only(fp32: Path, q_dq: Callable[[str], Path], tmp_path: Path) -> None:
    for precision, model in {"fp32": fp32, "int8": q_dq("tensorrt")}.items():
        chosen = options(compute_capability=(7, 5), precision=precision)
        message = build_and_fail(model, tmp_path, chosen)
        assert "compute capability 7.5 supports only FP16 networks" in message
        assert "FP32 GEMM is not supported" in message


@needs_rtx
def test_fp16_builds_for_turing_too(tmp_path: Path) -> None:
    model = save_small(tmp_path / "a.onnx", kind=np.float16)
    chosen = options(compute_capability=(7, 5), precision="fp16")
    assert build_engine(model, tmp_path / "net.engine", chosen).size_bytes


@needs_rtx
def test_this_device_without_a_gpu(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver")
    except OSError:
        pass
    message = build_and_fail(save_small(tmp_path / "a.onnx"), tmp_path, options(compute_capability=None))
    assert "needs an NVIDIA GPU, but its driver (libcuda.so.1) is not installed" in message


@pytest.mark.parametrize(
    ("flavour", "fix"),
    [("tensorrt", "pip install 'tensorrt>=10.3'"), ("tensorrt-rtx", "pip install 'tensorrt-rtx-cu13>=1.7'")],
)
def test_a_missing_compiler(flavour: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = build_and_fail(save_small(tmp_path / "a.onnx"), tmp_path, EngineOptions(flavour=flavour))
    assert f"{flavour} is not installed" in message
    assert fix in message
    assert "never pip install tensorrt" in message


def own_workers(parent: int | str = "self") -> list[int]:
    """Process ids of the running workers of a process."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if "fer_edge.engines.build.worker" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
    return found


@needs_rtx
def test_a_killed_worker_leaves_nothing(fp32: Path, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int) -> None:
        for pid in own_workers():
            os.kill(pid, signal.SIGKILL)

    message = build_and_fail(fp32, tmp_path, options(), on_progress=kill)
    assert "was killed, probably because memory ran out" in message
    assert message.endswith("Fix: free memory or add swap")


@needs_rtx
def test_a_build_that_takes_too_long_is_stopped(fp32: Path, tmp_path: Path) -> None:
    message = build_and_fail(fp32, tmp_path, options(time_limit_s=0.05))
    assert "took more than 0.05 s and was stopped" in message
    assert message.endswith("Fix: give a longer time_limit_s")
    assert not own_workers()


@needs_rtx
def test_an_interrupted_build_leaves_nothing(fp32: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(fp32, tmp_path / "net.engine", options(), interrupt)
    assert not own_workers()
    assert not list(tmp_path.iterdir())


KILLED = """
    import sys
    from pathlib import Path
    from fer_edge.engines.build.builder import build_engine
    from fer_edge.engines.build.options import EngineOptions

    def tell(stage, done, total):
        print("building", flush=True)
        sys.stdin.read()

    options = EngineOptions("tensorrt-rtx", compute_capability=(8, 6))
    build_engine(Path(sys.argv[1]), Path(sys.argv[2]), options, tell)
"""


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@needs_rtx
def test_a_worker_ends_with_the_process_that_asked(fp32: Path, tmp_path: Path) -> None:
    """The worker is suspended during its build, so that only the kernel can end it."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(fp32), str(tmp_path / "net.engine")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "building\n"
        (pid,) = own_workers(parent.pid)
        os.kill(pid, signal.SIGSTOP)
        assert is_alive(pid)
        parent.kill()
    try:
        deadline = time.monotonic() + 30
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "net.engine").exists()


def test_a_worker_whose_parent_has_ended_builds_nothing(tmp_path: Path) -> None:
    """The parent may end before the call of prctl; then the process has another parent."""
    request = json.dumps({"parent": os.getppid(), "question": {"flavour": "tensorrt"}})
    result = subprocess.run(
        [sys.executable, "-m", "fer_edge.engines.build.worker"],
        input=request, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout.strip()) == (1, "")
    assert result.stderr == "the parent process has ended\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", r"the compiler crashed \(SIGABRT\); its log ends with .*last words"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\); its log ends with .*last words"),
        ("os._exit(3)", r"ended without a result \(exit code 3\); its log ends with .*last words"),
        ("raise RuntimeError('of a kind')", r"ended without a result .* RuntimeError: of a kind"),
    ],
)
def test_a_compiler_that_crashes(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stub bindings that crash instead of TensorRT's."""
    folder = tmp_path / "bindings"
    folder.mkdir()
    (folder / "tensorrt.py").write_text(f"import os, signal\nos.write(1, b'last words\\n')\n{code}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    found = build_and_fail(save_small(tmp_path / "a.onnx"), tmp_path, EngineOptions())
    assert re.search(message, found), found


def test_a_compiler_that_crashes_names_the_timing_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bindings"
    folder.mkdir()
    (folder / "tensorrt.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    cache, model = tmp_path / "timing.cache", save_small(tmp_path / "a.onnx")
    assert "timing cache" not in build_and_fail(model, tmp_path, EngineOptions(timing_cache=cache))
    cache.write_bytes(b"no cache")
    found = build_and_fail(model, tmp_path, EngineOptions(timing_cache=cache))
    assert "crashed (SIGABRT); its log ends with" in found
    assert f"Fix: delete the timing cache {cache}, which may be damaged, and build again" in found
    assert cache.read_bytes() == b"no cache"
    cache.unlink()
    cache.mkdir()
    assert f"expected a file name for the timing cache, found the folder {cache}" in build_and_fail(
        model, tmp_path, EngineOptions(timing_cache=cache)
    )


class Config:
    """Stub of TensorRT's configuration for timing caches; accepts content that begins with ``good``."""

    def __init__(self, error: type[Exception] | None = None) -> None:
        self.error = error

    def create_timing_cache(self, stored: bytes) -> bytes | None:
        if self.error is not None:
            raise self.error("null pointer")
        return stored if stored.startswith((b"good", b"other")) or not stored else None

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return not cache.startswith(b"other")


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"\0" * 100, None), (b"other device", None), (b"x", RuntimeError), (b"x", TypeError)],
)
def test_what_is_no_timing_cache_is_named(
    content: bytes, error: type[Exception] | None, tmp_path: Path
) -> None:
    path = tmp_path / "timing.cache"
    for stored in (None, b"good"):
        if stored is not None:
            path.write_bytes(stored)
        worker._load_timing_cache(Config(), str(path))
    path.write_bytes(content)
    with pytest.raises(
        EngineError, match=r"timing\.cache is not a timing cache .*Fix: delete it, or name another"
    ):
        worker._load_timing_cache(Config(error), str(path))


def test_a_timing_cache_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"timings")
    path.chmod(0o606)
    with pytest.raises(EngineError, match="can be written by every user.*run chmod go-w .*, or delete it"):
        worker._load_timing_cache(None, str(path))


@needs_rtx
def test_modules_in_the_working_directory_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')\n")
    save_small(tmp_path / "a.onnx")
    monkeypatch.chdir(tmp_path)
    report: EngineReport = build_engine(Path("a.onnx"), Path("net.engine"), options())
    assert report.path == Path("net.engine")
    assert (tmp_path / "net.engine").stat().st_size == report.size_bytes


PLUGIN = """
    import sys
    import tensorrt_rtx as trt

    class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        def __init__(self):
            for base in Plugin.__bases__:
                base.__init__(self)
            self.num_outputs, self.plugin_name, self.plugin_version, self.plugin_namespace = 1, "Mine", "1", ""
        def get_capability_interface(self, kind): return self
        def get_output_data_types(self, types): return types
        def get_output_shapes(self, inputs, shapes, builder): return inputs
        def get_fields_to_serialize(self): return trt.PluginFieldCollection([])
        def clone(self): return Plugin()

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self):
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = "Mine", "1", ""
            self.field_names = trt.PluginFieldCollection([])
        def create_plugin(self, name, fields, phase): return Plugin()

    creator = Creator()
    assert trt.get_plugin_registry().register_creator(creator, "")
    log = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse_from_file(sys.argv[1])
    print([network.get_layer(i).type.name for i in range(network.num_layers)])
"""


@needs_rtx
def test_plugins_parse_in_the_environment_of_the_worker(tmp_path: Path) -> None:
    """The wheel lacks the library name that its parser opens for a plugin, and aborts without the link."""
    links = tmp_path / "links"
    links.mkdir()
    model = save_small(tmp_path / "a.onnx", "Mine", "elsewhere")
    (tmp_path / "plugin.py").write_text(textwrap.dedent(PLUGIN))
    plain = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    for environment, expected in ((plain, -signal.SIGABRT), (worker_environment(RTX, links), 0)):
        result = subprocess.run(
            [sys.executable, tmp_path / "plugin.py", model],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if expected and result.returncode == 0:
            continue  # a version that no longer needs the link
        assert result.returncode == expected, result.stderr
    assert "PLUGIN_V3" in result.stdout


@needs_rtx
def test_a_timing_cache_is_written_and_read(tmp_path: Path) -> None:
    """With the objects of TensorRT-RTX, whose calls have no effect; TensorRT has the same API."""
    code = """
        import pathlib, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import tensorrt_rtx as trt
        from fer_edge.engines.build.worker import _load_timing_cache, _save_timing_cache
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        for _ in range(2):
            config = builder.create_builder_config()
            _load_timing_cache(config, sys.argv[1])
            _save_timing_cache(config, sys.argv[1])
            assert pathlib.Path(sys.argv[1]).stat().st_size > 0
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "timing.cache")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["timing.cache"]


@needs_rtx
def test_too_little_memory_is_said_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space on the disk
    message = build_and_fail(path, tmp_path, options())
    assert message.startswith("the build needs about 4398.")
    assert "or add swap (sudo fallocate -l " in message


@needs_rtx
def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        builder, "measure_free_memory", lambda machine: FreeMemory(100 << 20, 0, limited=True)
    )
    message = build_and_fail(save_small(tmp_path / "a.onnx"), tmp_path, options())
    assert message == (
        "the build needs about 0.5 GB of memory, found 0.1 GB free within the limit of this container. "
        "Fix: end other programs, or give it more (docker run --memory)"
    )


@needs_rtx
def test_paths_that_cannot_be(tmp_path: Path) -> None:
    assert "does not exist" in build_and_fail(tmp_path / "none.onnx", tmp_path, options())
    model = save_small(tmp_path / "a.onnx")
    with pytest.raises(
        EngineError, match="expected a file name for the .*, found the folder .*Fix: give the name of a file"
    ):
        build_engine(model, tmp_path, options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flavour": "tensorrt-rtxx"}, "unknown flavour 'tensorrt-rtxx'.*did you mean 'tensorrt-rtx'"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"min_batch": 4, "opt_batch": 2}, "expected batches 1 <= min <= opt <= max, found 4, 2, 16"),
        ({"min_batch": 0}, "min_batch must be a whole number from 1 to 65536, found 0"),
        ({"flavour": "tensorrt"}, "tensorrt builds only for the device that it runs on"),
        ({"timing_cache": Path("a")}, "tensorrt-rtx does not measure kernels"),
        ({"workspace_bytes": -1}, "workspace_bytes must be None or a whole number from 0"),
        ({"workspace_share": 0.0}, "workspace_share must be a number from 0.001 to 1, found 0.0"),
        ({"workspace_share": 1.5}, "workspace_share must be a number from 0.001 to 1"),
        ({"workspace_share": float("nan")}, "workspace_share must be a number from 0.001 to 1"),
        (
            {"dla_core": 0, "precision": "fp16"},
            "tensorrt-rtx does not support DLAs. Fix: use tensorrt on a Jetson",
        ),
        ({"gpu_fallback": True}, "gpu_fallback needs a DLA. Fix: give dla_core too"),
        ({"builder_level": 6}, "builder_level must be None or a whole number from 0 to 5, found 6"),
        ({"time_limit_s": float("nan")}, "time_limit_s must be a number from 0.001 to"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**changes)


DLA = {"precision": "fp16", "min_batch": 1, "opt_batch": 1, "max_batch": 1, "dla_core": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"precision": "fp32"},
            "a DLA computes only FP16 and INT8, found an fp32 model. Fix: give an FP16 or INT8 model",
        ),
        (
            {"max_batch": 8},
            "a DLA supports one batch size, found min, opt and max 1, 1, 8. Fix: set all three",
        ),
        ({"dla_core": -1}, "dla_core must be a whole number from 0 to 15, found -1"),
    ],
)
def test_what_a_dla_does_not_take(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineOptions(**{**DLA, **changes})


class Dla:
    """Stub of TensorRT's builder, network and configuration with two DLAs."""

    num_DLA_cores, num_layers = 2, 5
    __name__, __version__ = "tensorrt", "11.4.1"
    DeviceType = types.SimpleNamespace(DLA="a DLA")
    BuilderFlag = types.SimpleNamespace(GPU_FALLBACK="fall back")

    def __init__(self) -> None:
        self.flags: list[str] = []

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def get_layer(self, index: int) -> int:
        return index

    def can_run_on_DLA(self, layer: int) -> bool:
        return layer < 3


def test_layers_go_to_the_dla_and_to_the_gpu_only_where_that_is_allowed() -> None:
    for allowed, flags in ((False, []), (True, ["fall back"])):
        one = Dla()
        request = {"dla_core": 1, "gpu_fallback": allowed}
        assert worker._use_dla(one, one, one, one, request) == 3
        assert (vars(one)["default_device_type"], vars(one)["DLA_core"], one.flags) == ("a DLA", 1, flags)
    untouched = Dla()
    request = {"dla_core": None, "gpu_fallback": False}
    assert worker._use_dla(untouched, untouched, untouched, untouched, request) == 0
    assert vars(untouched) == {"flags": []}
    with pytest.raises(EngineError, match=r"DLA 2 does not exist, tensorrt 11\.4\.1 finds 2 here"):
        worker._use_dla(Dla(), Dla(), Dla(), Dla(), {"dla_core": 2, "gpu_fallback": True})


def test_what_a_dla_refuses_says_what_can_be_done() -> None:
    request = {"compute_capability": None, "dla_core": 0, "gpu_fallback": False}
    found = worker._build_failure(["first", "no\n softmax"], request)
    assert found == (
        "the compiler rejects the network: no softmax. Fix: drop dla_core to use the GPU, "
        "or set gpu_fallback for layers that the DLA does not support"
    )
    found = worker._build_failure([], {**request, "gpu_fallback": True})
    assert found == "the compiler rejects the network: no reason given. Fix: drop dla_core to use the GPU"
    found = worker._build_failure(["no"], {**request, "dla_core": None})
    assert (
        found == "the compiler rejects the network: no. Fix: report this with the output of fer-edge doctor"
    )


NO_DLA = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorrt_rtx as trt
    from fer_edge.engines.build import worker
    from fer_edge.errors import EngineError
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config = builder.create_builder_config()
    before = config.default_device_type, config.DLA_core
    try:
        worker._use_dla(trt, builder, None, config, {"dla_core": 0, "gpu_fallback": True})
    except EngineError as error:
        print(error)
    assert (config.default_device_type, config.DLA_core) == before
"""


@needs_rtx
def test_a_machine_without_a_dla_says_so() -> None:
    """With a real builder, which has no DLA."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_DLA)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("DLA 0 does not exist, tensorrt_rtx ")
    assert "finds 0 here (Orin Nano and Thor have none" in result.stdout


def test_what_changes_an_engine_is_in_its_key() -> None:
    here = EngineOptions()
    assert here.of_the_engine() == {"workspace_share": 0.5}
    for changes, expected in (
        ({"builder_level": 0}, {"workspace_share": 0.5, "builder_level": 0}),
        ({"workspace_bytes": 1 << 30}, {"workspace_bytes": 1 << 30}),
        ({**DLA, "dla_core": 1}, {"workspace_share": 0.5, "dla_core": 1}),
        ({**DLA, "gpu_fallback": True}, {"workspace_share": 0.5, "dla_core": 0, "gpu_fallback": True}),
        ({"workspace_share": 0.25, "time_limit_s": 1.0, "log": Path("a")}, {"workspace_share": 0.25}),
    ):
        assert dataclasses.replace(here, **changes).of_the_engine() == expected
    assert options(workspace_share=0.25).of_the_engine() == {}  # of a device that is not here


@needs_rtx
def test_workspace_and_level_reach_the_compiler(tmp_path: Path) -> None:
    model = save_small(tmp_path / "a.onnx")
    assert "within workspace limit" in build_and_fail(model, tmp_path, options(workspace_bytes=1 << 20))
    chosen = options(workspace_bytes=1 << 30, builder_level=1)
    report = build_engine(model, tmp_path / "net.engine", chosen)
    assert (report.size_bytes > 0, report.workspace_bytes) == (True, 1 << 30)


@needs_rtx
def test_for_a_device_that_is_not_here_the_limit_of_the_compiler_stays(tmp_path: Path) -> None:
    model = save_small(tmp_path / "a.onnx")
    reports = [
        build_engine(model, tmp_path / "net.engine", options(workspace_share=share)) for share in (0.01, 1.0)
    ]
    assert reports[0].workspace_bytes == reports[1].workspace_bytes > 1 << 30


CONFIGURE = """
    import sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorrt_rtx as trt
    from fer_edge.engines.build import worker
    from fer_edge.errors import BackendError
    worker.free_device_bytes = lambda: 6 << 30
    for given, share, capability, expected in (
        (None, 0.5, None, 3 << 30),
        (None, 0.25, None, 3 << 29),
        (1 << 30, 0.5, None, 1 << 30),
        (1 << 30, 0.5, [8, 6], 1 << 30),
    ):
        config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
        request = {"workspace_bytes": given, "workspace_share": share, "compute_capability": capability}
        worker._configure(trt, config, {**request, "builder_level": None, "dla_core": None})
        found = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        assert found == expected, (given, share, capability, found)
"""


@needs_rtx
def test_on_this_device_the_share_of_what_is_free_is_the_limit() -> None:
    """In the configuration of the real compiler; the free memory is simulated."""
    command = [sys.executable, "-c", textwrap.dedent(CONFIGURE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

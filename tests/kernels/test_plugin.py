"""The TensorRT plugin: compiled against TensorRT's headers, and called as TensorRT calls it, on emulated kernels."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

from fer_edge.engines.plugin import LIBRARY, NAME, NAMESPACE, REPORT_PREFIX, VERSION
from fer_edge.export.networks.attention_op import self_attention_received

SOURCE = ROOT / "kernels" / "plugin" / "self_attention_plugin.cpp"
DTYPES = {"float": np.float32, "half": np.float16}
TYPE_NUMBERS = {"float": 0, "half": 1}  # nvinfer1::DataType

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "sanitized"]
)
def driver(build_driver: Callable[..., Path], tensorrt_headers: Path, request: pytest.FixtureRequest) -> Path:
    headers = (tensorrt_headers, Path(__file__).with_name("emulated_cuda"))
    return build_driver("plugin_driver", sanitize=request.param, headers=headers)


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Run:
    """Return ``run(tensors, **options)``, which answers as the program does; the outputs are in ``tmp_path/out``."""

    def start(tensors: list[np.ndarray], **options: object) -> subprocess.CompletedProcess:
        batch, channels, positions = tensors[2].shape
        kind = next(name for name, dtype in DTYPES.items() if tensors[2].dtype == dtype)
        (tmp_path / "in").write_bytes(b"".join(tensor.tobytes() for tensor in tensors))
        shape = {"type": kind, "batch": batch, "channels": channels, "positions": positions}
        words = [f"{name}={value}" for name, value in {**shape, "received": 0, **options}.items()]
        command = [driver, tmp_path / "in", tmp_path / "out", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return start


def draw(kind: str, batch: int, channels: int, positions: int) -> list[np.ndarray]:
    """query, key, value, residual, gamma: all different, so that none can stand for another."""
    rng = np.random.default_rng([batch, channels, positions])
    depth = channels // 8
    shapes = [(batch, depth, positions)] * 2 + [(batch, channels, positions)] * 2
    return [rng.standard_normal(shape).astype(DTYPES[kind]) for shape in shapes] + [
        np.array(0.7, DTYPES[kind])
    ]


@pytest.mark.parametrize("received", [0, 1])
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("batch", "channels", "positions"), [(2, 128, 36), (3, 24, 49), (1, 8, 1)])
def test_outputs_are_those_of_pytorch(
    run: Run, tmp_path: Path, kind: str, batch: int, channels: int, positions: int, received: int
) -> None:
    tensors = draw(kind, batch, channels, positions)
    completed = run(tensors, received=received)
    assert completed.returncode == 0, completed.stderr
    assert "on_the_given_stream 1\n" in completed.stdout
    values = np.frombuffer((tmp_path / "out").read_bytes(), DTYPES[kind]).astype(np.float64)
    exact = self_attention_received(*(torch.from_numpy(tensor.astype(np.float64)) for tensor in tensors))
    expected = [output.numpy() for output in exact][: 1 + received]
    assert values.size == sum(output.size for output in expected)
    tolerance = {"float": 1e-5, "half": 4e-3}[kind]
    np.testing.assert_allclose(
        values, np.concatenate([output.ravel() for output in expected]), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("received", [0, 1])
@pytest.mark.parametrize("kind", DTYPES)
def test_what_it_tells_the_builder(run: Run, kind: str, received: int) -> None:
    completed = run(draw(kind, 2, 24, 9), received=received, max_batch=16)
    assert completed.returncode == 0, completed.stderr
    answers = completed.stdout.splitlines()
    number = TYPE_NUMBERS[kind]
    # The first tensor may be float or half; every other has the type of the first. Nothing but linear (0).
    supported = ["0/0 1/0", *[f"{number}/0"] * (5 + received)]
    assert answers == [
        f"creators 1 PLUGIN CREATOR_V3ONE {NAMESPACE} {NAME} {VERSION}",
        "fields received",
        f"plugin {NAMESPACE} {NAME} {VERSION}",
        f"outputs {1 + received}",
        "types" + f" {number}" * (1 + received),
        "shape 0 B C N",
        *(["shape 1 B N"] if received else []),
        *(f"supported {i} {formats}" for i, formats in enumerate(supported)),
        f"workspace {received * 16 * 2 * 9 * 4}",  # float32 [max batch, 2, N]
        f"serialized 1 received {received}",
        "on_the_given_stream 1",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": "field_value"}, "the field received must be 0 or 1, found 2"),
        ({"fault": "field_type"}, "the field received must be one int32"),
        ({"fault": "field_length"}, "the field received must be one int32"),
        ({"fault": "four_inputs"}, "expected 5 inputs and 1 outputs, found 4 and 1"),
        ({"fault": "no_field", "received": 1}, "expected 5 inputs and 1 outputs, found 5 and 2"),
        ({"fault": "mixed_types"}, "all inputs must be float or all half, found type 1 as input 2 and type 0 as input 0"),
        ({"fault": "integers"}, "all inputs must be float or all half, found type 2 as input 0"),
        ({"fault": "flat_residual"}, "expected 5 inputs and a residual of 3 dimensions"),
        ({"fault": "key_rows"}, "key must be [1, 3, 9] like the residual, found [1, 4, 9]"),
        ({"fault": "value_positions"}, "value must be [1, 24, 9] like the residual, found [1, 24, 10]"),
        ({"fault": "flat_query"}, "query must have 3 dimensions, found 2"),
        ({"fault": "gamma_per_channel"}, "gamma must have one element"),
        ({"channels": 20}, "channels must be a multiple of 8 from 8 to 512, found 20"),
        ({"channels": 520}, "channels must be a multiple of 8 from 8 to 512, found 520"),
        ({"max_batch": 65536}, "batch must be 0 to 65535, found 65536"),
        ({"positions": 2**32 + 9}, "positions must be 0 to 4194239, found 2147483647"),
        ({"fault": "batch_above"}, "query must be [3, 3, 9] like the residual, found [2, 3, 9]"),
        ({"fault": "null_output"}, "out is a null pointer"),
        ({"fault": "no_workspace", "received": 1}, "row_statistics is a null pointer"),
    ],
)  # fmt: skip
def test_what_it_refuses(run: Run, options: dict[str, object], message: str) -> None:
    """A status that is not 0, and a line in TensorRT's log at severity ERROR (1)."""
    completed = run(draw("float", 2, 24, 9), **options)
    assert completed.returncode == 4, completed.stderr
    assert completed.stderr.startswith(f"[1] {REPORT_PREFIX}{message}")
    assert completed.stderr.count("\n") == 1


def test_without_a_logger_it_writes_to_standard_error(run: Run) -> None:
    completed = run(draw("float", 2, 24, 9), fault="no_finder", channels=20)
    assert completed.returncode == 4
    assert completed.stderr == f"{REPORT_PREFIX}channels must be a multiple of 8 from 8 to 512, found 20\n"


def test_gamma_of_one_axis(run: Run, tmp_path: Path) -> None:
    tensors = draw("half", 2, 24, 9)
    outputs = []
    for fault in ("", "gamma_one"):
        assert run(tensors, fault=fault).returncode == 0
        outputs.append((tmp_path / "out").read_bytes())
    assert outputs[0] == outputs[1]


# ---- the library that nvcc makes


def test_the_library_needs_neither_tensorrt_nor_cuda(compiled_plugin: Path) -> None:
    listing = subprocess.run(["readelf", "-d", compiled_plugin], capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listing.stdout)
    assert needed
    assert not [name for name in needed if "cuda" in name or "nv" in name or "tensorrt" in name]


def test_the_library_exports_two_functions(compiled_plugin: Path) -> None:
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("needs nm, of binutils")
    listing = subprocess.run(
        [tool, "-D", "--defined-only", compiled_plugin], capture_output=True, text=True, check=True
    )
    functions = {line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] == "T"}
    assert functions == {"getCreators", "setLoggerFinder"}


def test_creators_of_the_library(compiled_plugin: Path) -> None:
    library = ctypes.CDLL(str(compiled_plugin))
    count = ctypes.c_int32(-1)
    library.getCreators.restype = ctypes.POINTER(ctypes.c_void_p)
    creators = library.getCreators(ctypes.byref(count))
    assert count.value == 1
    assert creators[0]


def test_the_plugin_has_one_source_for_all_versions() -> None:
    """No branch on a version of TensorRT; the one there is leaves CUDA's halves to the emulation."""
    conditions = [line for line in SOURCE.read_text().splitlines() if re.match(r"\s*#\s*(if|elif)", line)]
    assert conditions == ["#ifndef FER_EDGE_EMULATION"]


def configure(folder: Path, include_dir: Path) -> subprocess.CompletedProcess:
    cmake = shutil.which("cmake")
    if cmake is None or shutil.which("nvcc") is None:
        pytest.skip("needs cmake and nvcc")
    pytest.importorskip("pybind11", reason="needs pybind11 to configure the build")
    environment = {**os.environ, "TENSORRT_INCLUDE_DIR": str(include_dir), "CUDAARCHS": "86"}
    command = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cmake_builds_it_where_the_headers_are(tensorrt_headers: Path, tmp_path: Path) -> None:
    configured = configure(tmp_path, tensorrt_headers)
    assert configured.returncode == 0, configured.stderr
    assert f"-- TensorRT plugin: with the headers of {tensorrt_headers}\n" in configured.stdout
    command = ["cmake", "--build", str(tmp_path), "--target", "fer_edge_plugin"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stderr
    assert hasattr(ctypes.CDLL(str(tmp_path / LIBRARY)), "getCreators")


def test_a_folder_without_the_headers_is_an_error(tmp_path: Path) -> None:
    configured = configure(tmp_path / "build", tmp_path)
    assert configured.returncode != 0
    assert f"TENSORRT_INCLUDE_DIR is {tmp_path}, where there is no NvInferRuntime.h" in " ".join(
        configured.stderr.split()
    )

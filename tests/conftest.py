"""Which tests run, on which processors, and fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from emulated_kernels import Emulation, compile_emulation
from golden_outputs import GoldenFolder
from once import made_once
from places import ROOT

import fer_edge
from fer_edge._utils.files import cache_folder, whole_folder

PACKAGE = Path(fer_edge.__file__).resolve().parent

#: TensorRT's C++ headers, version 10.14 (Apache-2.0), which no package of NVIDIA's brings.
HEADERS = "kernel-lens==2.0.1 --hash=sha256:07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"


#: How many slow tests were left out.
LEFT_OUT = pytest.StashKey[int]()


def pytest_configure() -> None:
    """Prepare a run, or a parallel worker of it."""
    require_tested_package()
    make_repeatable()


def require_tested_package() -> None:
    """Refuse to test another copy of the package than the one in the environment that ``FER_EDGE_TESTED`` names."""
    wanted = os.environ.get("FER_EDGE_TESTED")
    if wanted and Path(wanted).resolve() not in PACKAGE.parents:
        pytest.exit(f"tests of the package in {wanted} would run on {PACKAGE}", returncode=1)


def make_repeatable() -> None:
    """Give every parallel worker processors of its own: thread pools that compete lose half of their time.

    Runtimes make the plain choice, in processes that tests start too: the same backend in every run.
    """
    os.environ["FER_EDGE_TUNE"] = "0"
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker:
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[number::count] or processors[number % len(processors) :][:1])


def pytest_report_header() -> str:
    return f"fer_edge: {PACKAGE}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless ``-m`` chooses the tests or the command names one with ``::``."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
    config.stash[LEFT_OUT] = len(slow)
    if hasattr(config, "workeroutput"):  # a parallel worker: the process that reports collects nothing itself
        config.workeroutput["left_out"] = len(slow)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number from a parallel worker; all collect the same tests."""
    count = getattr(node, "workeroutput", {}).get("left_out")
    if count is not None:
        node.config.stash[LEFT_OUT] = count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many slow tests were left out, and how they run."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} slow tests were not run: '-m slow' runs them, '.ci/full' or -m 'slow or not slow' runs all"
        )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data, models and golden outputs that lies beside the checkout."""
    path = ROOT.parent / "shared"
    if not (path / "golden").is_dir():
        pytest.skip("needs ../shared (golden outputs, data), which is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def golden_folder(shared: Path) -> GoldenFolder:
    """The outputs of the original networks."""
    return GoldenFolder(shared / "golden")


@pytest.fixture(scope="session")
def astronaut_file() -> Path:
    """A real photograph with one frontal face, from the scikit-image package (public domain, NASA)."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture(scope="session")
def astronaut(astronaut_file: Path) -> np.ndarray:
    """The astronaut as ``[512, 512, 3]`` BGR uint8."""
    return cv2.imread(str(astronaut_file))


@pytest.fixture(scope="session")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The INT8 bundle of the default model, as ``fer-edge build --int8`` makes it; not to be changed."""
    from fer_edge.builder import BuildOptions, build

    def make(output: Path) -> None:
        build(BuildOptions(backend="onnxruntime", output=output))

    return made_once(tmp_path_factory, "int8.fer", make)


@pytest.fixture(scope="session")
def compiled_emulation(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The kernels' module, compiled for the CPU once per session."""
    return Emulation(made_once(tmp_path_factory, "_kernels.so", compile_emulation))


@pytest.fixture
def emulation(compiled_emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulation]:
    """``fer_edge._kernels``, on the CPU."""
    monkeypatch.setitem(sys.modules, "fer_edge._kernels", compiled_emulation.module)
    compiled_emulation.reset()
    yield compiled_emulation
    compiled_emulation.reset()


@pytest.fixture(scope="session")
def tensorrt_headers() -> Path:
    """The folder with NvInferRuntime.h: ``TENSORRT_INCLUDE_DIR``, else version 10.14 from PyPI, kept in the cache folder."""
    if named := os.environ.get("TENSORRT_INCLUDE_DIR"):
        return Path(named)
    folder = cache_folder() / "tests" / "tensorrt-headers-10.14"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as download, whole_folder(folder) as part:
            requirements = Path(download) / "requirements.txt"
            requirements.write_text(HEADERS + "\n")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
            command += [
                "--disable-pip-version-check",
                "--retries=1",
                "--dest",
                download,
                "-r",
                str(requirements),
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "DO NOT MATCH THE HASHES" not in result.stderr, result.stderr
            if result.returncode != 0:
                pytest.skip(
                    f"needs TensorRT's headers, and pip cannot download them: {result.stderr.strip()[-200:]}"
                )
            with zipfile.ZipFile(next(Path(download).glob("*.whl"))) as wheel:
                for name in wheel.namelist():
                    if name.startswith("kernel_lens/include/tensorrt/") and name.endswith(".h"):
                        (part / Path(name).name).write_bytes(wheel.read(name))
    return folder


@pytest.fixture(scope="session")
def compiled_plugin(tensorrt_headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TensorRT plugin as nvcc makes it, for one architecture, with warnings as errors."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("needs nvcc to compile the TensorRT plugin")
    command = [compiler, "-std=c++17", "-O3", "-arch=sm_86", "-shared", "-Werror=all-warnings"]
    command += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wconversion,-Werror"]
    command += ["-isystem", str(tensorrt_headers)]
    command += [
        str(ROOT / "kernels" / name) for name in ("plugin/self_attention_plugin.cpp", "self_attention.cu")
    ]

    def make(output: Path) -> None:
        result = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    return made_once(tmp_path_factory, "libfer_edge_plugin.so", make)

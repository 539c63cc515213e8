"""Both kinds of wheel, and the module that nvcc makes: it needs no device to be imported and to check arguments."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from device_arrays import REFUSALS, crop_arguments, refused_call
from places import ROOT

from fer_edge.errors import BackendError, UsageError

ARCHITECTURE = "80"


def without(*names: str, **changes: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name not in names}, **changes}


def build_wheel(folder: Path, environment: dict[str, str]) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--disable-pip-version-check",
        "-w",
        str(folder),
    ]
    result = subprocess.run(
        [*command, str(ROOT)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def configure(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    command = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def nvcc() -> str:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("needs nvcc to compile the kernels")
    return compiler


@pytest.fixture(scope="module")
def unpacked(nvcc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with kernels for one architecture, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder, without(FER_EDGE_KERNELS="1", CUDAARCHS=ARCHITECTURE))
    assert "py3-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def library(unpacked: Path) -> Path:
    (path,) = unpacked.rglob("_kernels*.so")
    assert path.parent == unpacked / "fer_edge"
    return path


@pytest.fixture(scope="module")
def module(library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("compiled._kernels", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.architectures == f"sm {ARCHITECTURE}"
    return module


@pytest.mark.slow
def test_without_being_asked_the_wheel_is_pure_python(tmp_path: Path) -> None:
    """On a machine with nvcc too."""
    wheel = build_wheel(tmp_path, without("FER_EDGE_KERNELS"))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.mark.slow
def test_the_wheel_with_kernels_holds_the_rest_too(unpacked: Path) -> None:
    for name in (
        "cuda/kernels.py",
        "export/onnx/export.py",
        "calibration/qdq/writer.py",
        "models/conv-attention.fer/model.onnx",
    ):
        assert (unpacked / "fer_edge" / name).is_file()
    assert {path.name.split("-")[0] for path in unpacked.iterdir()} == {"fer_edge"}


@pytest.mark.slow
def test_the_module_needs_neither_driver_nor_cuda_libraries(library: Path) -> None:
    """The runtime is linked in; it looks for the driver when it is first used."""
    listing = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listing)
    assert needed
    assert not [name for name in needed if "cuda" in name or "nv" in name]


@pytest.mark.slow
def test_the_installed_package_finds_its_module(unpacked: Path, library: Path) -> None:
    """Apart from the checkout: without ``site`` an editable installation is not seen, only the dependencies are."""
    code = """
import sys
sys.path += sys.argv[1:]
from fer_edge.cuda import kernels
state = kernels.availability()
print(kernels.__file__, sys.modules["fer_edge._kernels"].__file__, state.ok, state.version, state.reason, sep="\\n")
"""
    folders = [str(unpacked), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    command = [sys.executable, "-S", "-c", code, *folders]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=unpacked)
    face, found, ok, version, reason = result.stdout.splitlines()
    assert Path(face) == unpacked / "fer_edge" / "cuda" / "kernels.py"
    assert Path(found) == library
    assert re.fullmatch(rf"CUDA \d+\.\d+, sm {ARCHITECTURE}", version)
    assert (ok, reason) == ("True", "") or reason.startswith("CUDA finds no device: ")


@pytest.mark.slow
def test_refused_before_cuda_is_asked(module: ModuleType) -> None:
    for name, (_, _, message) in REFUSALS.items():
        with pytest.raises(UsageError) as error:
            refused_call(module, name)()
        assert str(error.value).startswith(message)


@pytest.mark.slow
def test_without_a_device_the_error_says_so(module: ModuleType) -> None:
    if module.device_state()[0]:
        pytest.skip("there is a CUDA device here")
    with pytest.raises(BackendError, match=r"CUDA cannot be used: .+; run fer-edge doctor"):
        module.crop_resize_normalize(**crop_arguments())


def test_kernels_without_a_compiler_are_an_error(tmp_path: Path) -> None:
    """A wheel without what was asked for would be found out on the device."""
    for tool in ("cmake", "g++", "c++", "cc", "gcc", "make", "ld", "as", "ar", "ranlib", "nm", "strip"):
        found = shutil.which(tool)
        if found is not None:
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / tool).symlink_to(found)
    result = configure(tmp_path / "build", without("CUDACXX", "CUDA_PATH", PATH=str(tmp_path / "bin")))
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "FER_EDGE_KERNELS asks for the CUDA kernels, and nvcc was not found" in message
    assert "or unset FER_EDGE_KERNELS" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("72 75 80 86 87 89 90", "75 80 86 87 89 90"),  # CUDA 12.6, JetPack 6
        ("75 80 86 87 88 89 90 100 103 110 120 121", "75 80 86 87 89 90 100 110 120 121"),  # CUDA 13.0
    ],
)
def test_the_architectures_that_the_compiler_knows(
    nvcc: str, tmp_path: Path, known: str, expected: str
) -> None:
    """A compiler that says which ones it knows; all else is done by the real one."""
    pytest.importorskip("pybind11", reason="needs pybind11 to configure the build")
    codes = "".join(f"sm_{code}\\n" for code in known.split())
    compiler = tmp_path / "nvcc"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --list-gpu-code ] && {{ printf "{codes}"; exit; }}\nexec {nvcc} "$@"\n'
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    result = configure(tmp_path / "build", without("CUDAARCHS", CUDACXX=str(compiler)))
    assert result.returncode == 0, result.stderr
    assert f"-- CUDA kernels for sm {expected}\n" in result.stdout
    rules = next((tmp_path / "build").rglob("flags.make"), tmp_path / "build" / "build.ninja").read_text()
    last = expected.split()[-1]
    assert f"arch=compute_{last},code=[compute_{last},sm_{last}]" in rules
    assert rules.count("code=[compute_") == rules.count(f"code=[compute_{last},")


def test_the_arithmetic_that_rounds_as_opencv_does(nvcc: str, tmp_path: Path) -> None:
    """Exact division, a product that is rounded before it is added to, and nothing through local memory."""
    source = ROOT / "kernels" / "crop_resize_normalize.cu"
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        "-arch=compute_87",
        "-ptx",
        "-o",
        str(tmp_path / "ptx"),
        str(source),
    ]
    subprocess.run(command, capture_output=True, check=True)
    instructions = (tmp_path / "ptx").read_text()
    assert {"div.rn.f32", "mul.rn.f32", "ld.global.nc.u8", "cvt.rn.f16x2.f32"} <= set(instructions.split())
    assert not re.search(r"\bfma\.|\bdiv\.(approx|full)|\.local\b", instructions)

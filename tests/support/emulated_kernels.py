"""The Python module of the kernels, compiled for the CPU: a CUDA runtime whose memory and streams tests state."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

UNREGISTERED, PINNED, DEVICE = 0, 1, 2


class Emulation:
    """The compiled module, and what its CUDA runtime shall say."""

    def __init__(self, path: Path) -> None:
        # pybind11 makes one module of each name in a process; test_build.py loads another one.
        spec = importlib.util.spec_from_file_location("emulated._kernels", path)
        assert spec is not None
        assert spec.loader is not None
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.runtime = ctypes.CDLL(str(path))
        self.runtime.fake_log.restype = ctypes.c_char_p
        self.reset()

    def reset(self, driver_works: bool = True) -> None:
        """Forget all memory and the log."""
        self.runtime.fake_reset(ctypes.c_bool(driver_works))

    def place(self, *arrays: Any, kind: int = DEVICE, device: int = 0) -> None:
        """Let these arrays lie on a device."""
        for array in arrays:
            self.place_address(array.array.ctypes.data, kind, device)

    def place_address(self, address: int, kind: int = DEVICE, device: int = 0) -> None:
        """Let what begins at an address lie on a device."""
        self.runtime.fake_memory(ctypes.c_void_p(address), kind, device)

    def place_all(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Let all arrays of a call lie on a device."""
        self.place(*(value for value in arguments.values() if hasattr(value, "array")))
        return arguments

    def log(self) -> list[str]:
        """Return what was asked of the runtime."""
        return self.runtime.fake_log().decode().splitlines()


def compile_emulation(path: Path) -> None:
    """Compile the module into the file ``path``; skip the test where the tools for it are missing."""
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11 to compile the module")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run kernels on the CPU")
    command = [compiler, "-std=c++20", "-O1", "-pthread", "-fPIC", "-shared", "-fvisibility=hidden"]
    command += ["-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    command += ["-DFER_EDGE_EMULATION", "-I", str(ROOT / "kernels"), "-I", str(ROOT / "tests" / "kernels")]
    command += ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]]
    command += ["-o", str(path), str(ROOT / "tests" / "kernels" / "emulated_module.cpp")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

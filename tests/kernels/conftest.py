"""Kernels compiled for the CPU, once per session."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from once import made_once
from places import ROOT

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build_driver(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return ``build(name, *defines, sanitize=False, headers=())``, which compiles ``NAME.cpp`` of this folder for the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run kernels on the CPU")
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"the emulation knows x86-64 and aarch64, not {platform.machine()}")
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    if int(version.split(".")[0]) < 12:
        pytest.skip(f"needs g++ 12 or newer (half precision in C++), found {version.strip()}")

    def build(name: str, *defines: str, sanitize: bool = False, headers: tuple[Path, ...] = ()) -> Path:
        def make(output: Path) -> None:
            source = Path(__file__).with_name(f"{name}.cpp")
            command = [
                compiler,
                "-std=c++20",
                "-O0" if sanitize else "-O2",
                "-march=native",
                "-fno-strict-aliasing",
                "-pthread",
                *WARNINGS,
            ]
            command += ["-DFER_EDGE_EMULATION", *(f"-D{define}" for define in defines)]
            for folder_of_headers in headers:
                command += ["-isystem", str(folder_of_headers)]
            command += [
                *(SANITIZERS if sanitize else []),
                "-I",
                str(ROOT / "kernels"),
                "-I",
                str(ROOT / "tests" / "kernels"),
                "-o",
                str(output),
            ]
            result = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr

        return made_once(
            tmp_path_factory, "-".join([name, *defines, *(["sanitized"] if sanitize else [])]), make
        )

    return build


@pytest.fixture(scope="session")
def processors() -> int:
    """Number of OS threads of a driver."""
    return len(os.sched_getaffinity(0))

"""Importing the package loads no heavy dependency, and its public names exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fer_edge

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "openvino",
    "cv2",
    "numpy",
    "matplotlib",
    "rich",
    "jinja2",
)


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    assert run(f"import sys, fer_edge; print([n for n in {HEAVY} if n in sys.modules])") == "[]"


def test_the_device_side_never_loads_what_builds() -> None:
    modules = "fer_edge.runtime, fer_edge.sinks, fer_edge.evaluation.evaluate"
    heavy = ("torch", "onnx", "jinja2")
    assert run(f"import sys, {modules}; print([n for n in {heavy} if n in sys.modules])") == "[]"


@pytest.mark.parametrize("name", fer_edge.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(fer_edge, name) is not None
    assert name in dir(fer_edge)


@pytest.mark.parametrize("names", ["build, BuildOptions", "BuildOptions, build", "BuildReport, build"])
def test_build_is_the_function_in_every_order(names: str) -> None:
    assert run(f"from fer_edge import {names}; print(type(build).__name__)") == "function"


def test_a_module_of_the_package_is_as_light_as_its_work() -> None:
    code = f"import sys, fer_edge; fer_edge.models.SHIPPED; print([n for n in {HEAVY} if n in sys.modules])"
    assert run(code) == "[]"
    heavy = [name for name in HEAVY if name != "numpy"]
    code = f"import sys, fer_edge; fer_edge.doctor.diagnose; print([n for n in {heavy} if n in sys.modules])"
    assert run(code) == "[]"


def test_what_robots_import_is_public() -> None:
    names = (
        "Runtime, RuntimeOptions, Face, FrameResult, build, BuildOptions, open_bundle, evaluate, load_dataset"
    )
    assert (
        run(f"from fer_edge import {names}, annotate, open_source, models, doctor; print(build.__name__)")
        == "build"
    )


def test_unknown_names_raise() -> None:
    with pytest.raises(AttributeError, match="'fer_edge' has no attribute 'Runtim'"):
        _ = fer_edge.Runtim


def test_the_package_is_typed() -> None:
    assert Path(fer_edge.__file__).with_name("py.typed").is_file()

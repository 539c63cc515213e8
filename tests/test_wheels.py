"""Whoever installs the core on a Jetson compiles nothing: every dependency has a wheel for its processor."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

#: glibc 2.x beside each Python: Ubuntu 22.04 (JetPack 6) and Ubuntu 24.04 (JetPack 7).
GLIBC_MINOR = {"3.10": 35, "3.12": 39}
MAX_ROUNDS = 5


def core_requirements() -> list[str]:
    """Return ``dependencies`` of pyproject.toml; tomllib is not in Python 3.10."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r'^  "([^"]+)",$', block, flags=re.MULTILINE)


def resolve(requirements: list[str], python: str, machine: str = "aarch64") -> dict[str, str]:
    """Return the wheel's file name of every distribution that pip would install, by its name.

    pip evaluates markers for the Python that runs it, so requirements that hold for the target alone are added.
    """
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "extra": "",
    }
    for _ in range(MAX_ROUNDS):
        found = _dry_run(requirements, python, machine)
        names = {canonicalize_name(item["metadata"]["name"]) for item in found}
        needed = [Requirement(text) for item in found for text in item["metadata"].get("requires_dist", ())]
        missing = [
            f"{r.name}{r.specifier}"
            for r in needed
            if canonicalize_name(r.name) not in names and (r.marker is None or r.marker.evaluate(environment))
        ]
        if not missing:
            return {item["metadata"]["name"]: item["download_info"]["url"].split("/")[-1] for item in found}
        requirements = [*requirements, *missing]
    raise AssertionError(f"still missing after {MAX_ROUNDS} rounds: {missing}")


def _dry_run(requirements: list[str], python: str, machine: str) -> list[dict]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--only-binary=:all:",
    ]
    command += ["--quiet", "--disable-pip-version-check", "--retries=1", "--timeout=20", "--report=-"]
    command += ["--target=unused", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR[python], 16, -1)]
    command += [f"--platform=manylinux2014_{machine}", *requirements]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0 and "Retrying (" in result.stderr:
        pytest.skip(f"no package registry is reached: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["install"]


def test_core_requirements_are_read() -> None:
    names = {Requirement(text).name for text in core_requirements()}
    assert {"numpy", "onnxruntime", "opencv-python-headless"} <= names
    assert "mtcnn" not in names


@pytest.mark.slow
@pytest.mark.parametrize("python", GLIBC_MINOR)
def test_every_core_dependency_has_a_wheel_for_aarch64(python: str) -> None:
    wheels = resolve(core_requirements(), python)
    print(f"\nPython {python}:", *sorted(wheels.values(), key=str.lower), sep="\n  ")
    direct = {canonicalize_name(Requirement(text).name) for text in core_requirements()}
    assert direct <= {canonicalize_name(name) for name in wheels}
    assert all(re.search(r"(-any|_aarch64)\.whl$", file) for file in wheels.values()), wheels
    compiled = {name for name, file in wheels.items() if file.endswith("_aarch64.whl")}
    assert {"numpy", "onnxruntime", "onnx", "opencv-python-headless"} <= compiled


@pytest.mark.slow
def test_a_missing_wheel_is_noticed() -> None:
    """This release was built for x86-64 alone."""
    release = "onnxruntime-openvino==1.21.0"
    assert "onnxruntime-openvino" in resolve([release], "3.12", "x86_64")
    with pytest.raises(AssertionError, match="No matching distribution found for onnxruntime-openvino"):
        resolve([release], "3.12")


@pytest.mark.slow
def test_requirements_of_the_target_alone_are_followed() -> None:
    """pytest 8.3 needs two packages more on Python 3.10, whichever Python runs pip."""
    assert {"pytest", "tomli", "exceptiongroup"} <= set(resolve(["pytest==8.3.5"], "3.10"))

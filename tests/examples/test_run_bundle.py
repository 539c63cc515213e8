"""The C++ example gives the probabilities of FER-Edge, and the golden files are those of the default bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from once import made_once
from places import ROOT

from fer_edge.models import shipped_bundle

CPP = ROOT / "examples" / "cpp"
#: What CMake says where headers are missing → what to install.
MISSING = {
    "ONNXRUNTIME_INCLUDE_DIR": "the C++ headers of ONNX Runtime, in the folder ONNXRUNTIME_INCLUDE_DIR",
    "nlohmann_json": "nlohmann/json (Debian: nlohmann-json3-dev)",
}


def write_golden(bundle: Path, folder: Path) -> Path:
    """Write the golden files of a bundle."""
    subprocess.run([sys.executable, CPP / "golden.py", bundle, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled against the library of the Python wheel."""
    if not (shutil.which("cmake") and shutil.which("g++")):
        pytest.skip("needs cmake and g++ to compile the C++ example")
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1*"))
    if not libraries:
        pytest.skip("needs the library of ONNX Runtime, which this build of its Python package lacks")

    def make(folder: Path) -> None:
        folder.mkdir()
        library = (
            folder / "libonnxruntime.so.1"
        )  # the wheel has it by its version; programs look for this name
        library.symlink_to(libraries[0])
        command = ["cmake", "-S", CPP, "-B", folder / "build", f"-DONNXRUNTIME_LIBRARY={library}"]
        if named := os.environ.get("ONNXRUNTIME_INCLUDE_DIR"):
            command.append(f"-DONNXRUNTIME_INCLUDE_DIR={named}")
        configured = subprocess.run(command, capture_output=True, text=True, check=False)
        for name, needed in MISSING.items():
            if name in configured.stderr:
                pytest.skip(f"needs {needed}")
        assert configured.returncode == 0, configured.stderr
        built = subprocess.run(
            ["cmake", "--build", folder / "build"], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr

    return made_once(tmp_path_factory, "cpp_example", make) / "build" / "run_bundle"


def run(program: Path, *arguments: Path) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_golden_files_are_those_of_the_default_bundle(tmp_path: Path) -> None:
    write_golden(shipped_bundle(), tmp_path)
    assert (tmp_path / "crops.bin").read_bytes() == (CPP / "golden" / "crops.bin").read_bytes()
    found, kept = (np.fromfile(folder / "probabilities.bin", "<f4") for folder in (tmp_path, CPP / "golden"))
    np.testing.assert_allclose(found, kept, rtol=0, atol=1e-5)
    assert sum(path.stat().st_size for path in (CPP / "golden").iterdir()) < 200_000


def test_cpp_gives_the_golden_probabilities(program: Path) -> None:
    result = run(program, shipped_bundle(), CPP / "golden")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "face 7: " in result.stdout


GIVEN = {"angry": 0.3, "disgust": 0, "fear": 0.1, "happy": 0.2, "neutral": 0.2, "sad": 0.1, "surprise": 0.1}
MANIFESTS: dict[str, dict[str, Any]] = {
    "uniform": {"default_prior": "uniform"},
    "temperature": {"default_prior": "training", "temperature": 2.5},
    "logits of equal priors": {"default_prior": "training", "logit_prior": "uniform"},
    "nothing known": {"default_prior": None, "class_frequencies": None, "logit_prior": None},
    "given, a class excluded": {"default_prior": GIVEN},
}


@pytest.mark.parametrize("changes", MANIFESTS.values(), ids=MANIFESTS)
def test_cpp_applies_temperature_and_prior(program: Path, changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = tmp_path / "other.fer"
    shutil.copytree(shipped_bundle("visual-attention"), bundle)
    file = bundle / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    golden = write_golden(bundle, tmp_path / "golden")
    assert run(program, bundle, golden).returncode == 0
    assert run(program, shipped_bundle("visual-attention"), golden).returncode == 1


def test_cpp_refuses_another_bundle(program: Path) -> None:
    result = run(program, shipped_bundle("visual-attention"), CPP / "golden")
    assert (result.returncode, result.stderr) == (1, "crops and probabilities do not fit\n")

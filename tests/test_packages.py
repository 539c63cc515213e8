"""The wheel and the source distribution hold the same files as the checkout, and the wheel is one package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest
from once import made_once
from places import ROOT

#: What Git keeps and the source distribution leaves out.
NOT_IN_SDIST = (".ci/", "tests/", "benchmarks/", "export/", "calibration/")
WINGS = ("export", "calibration")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    return made_once(tmp_path_factory, "archives", make)


@pytest.fixture(scope="module")
def wheel(archives: Path) -> Mapping[str, str]:
    """Name → sha256 of the files in the wheel."""
    (path,) = archives.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        return {name: digest(file.read(name)) for name in file.namelist()}


@pytest.fixture(scope="module")
def sdist(archives: Path) -> Mapping[str, str]:
    """Name → sha256 of the files in the source distribution; links are refused."""
    (path,) = archives.glob("*.tar.gz")
    files = {}
    with tarfile.open(path) as file:
        for member in file:
            assert member.isfile(), f"{member.name} is no plain file"
            content = file.extractfile(member)
            assert content is not None
            files[str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))] = digest(content.read())
    return files


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def committed() -> dict[str, str]:
    """Return name → sha256 of what Git keeps, the two linked folders where imports see them."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("needs Git and a clone: they say which files belong to the project")
    names = [name for name in result.stdout.split("\0") if (ROOT / name).is_file()]
    files = {name: digest((ROOT / name).read_bytes()) for name in names}
    wings = {f"fer_edge/{name}": sha for name, sha in files.items() if name.split("/")[0] in WINGS}
    return {**files, **wings}


def package(files: Mapping[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in files.items() if name.startswith("fer_edge/")}


def test_the_wheel_holds_the_package_alone(wheel: Mapping[str, str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"fer_edge"}
    assert not [name for name in wheel if "__pycache__" in name]


def test_the_wheel_holds_what_the_checkout_holds(wheel: Mapping[str, str]) -> None:
    assert package(wheel) == package(committed())


def test_the_source_distribution_holds_what_the_checkout_holds(sdist: Mapping[str, str]) -> None:
    expected = {name: sha for name, sha in committed().items() if not name.startswith(NOT_IN_SDIST)}
    assert {name: sha for name, sha in sdist.items() if name != "PKG-INFO"} == expected


def test_the_wheel_from_the_checkout_is_the_one_from_the_source_distribution(
    archives: Path, wheel: Mapping[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run([*command, "-w", str(tmp_path), str(ROOT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        assert {name: digest(file.read(name)) for name in file.namelist()} == wheel

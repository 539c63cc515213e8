"""Bundle names: shipped names work in every folder, and a mistyped name gets a suggestion."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_edge import Runtime
from fer_edge.cli import main
from fer_edge.errors import BundleError, UsageError
from fer_edge.models.catalogue import SHIPPED, find_bundle, shipped_bundle

NAMES = ("default", *SHIPPED)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_bundle_as_text_and_as_path(name: str) -> None:
    expected = shipped_bundle("conv-attention" if name == "default" else name)
    assert find_bundle(name) == find_bundle(Path(name)) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "NAME"),
        ("run", "NAME", "--source", "PHOTO"),
        ("explain", "NAME", "PHOTO", "--output", "OUT", "--method", "gradcam"),
        ("eval", "NAME", "--data", "DATA"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_every_name(
    name: str, command: tuple[str, ...], tmp_path: Path, astronaut_file: Path
) -> None:
    (tmp_path / "data" / "happy").mkdir(parents=True)
    shutil.copy(astronaut_file, tmp_path / "data" / "happy" / "a.png")
    values = {
        "NAME": name,
        "PHOTO": str(astronaut_file),
        "OUT": str(tmp_path / "out.png"),
        "DATA": str(tmp_path / "data"),
    }
    assert main([values.get(word, word) for word in command]) == 0


def test_the_runtime_takes_them_too() -> None:
    for name in ("visual-attention", Path("visual-attention")):
        with Runtime(name) as runtime:
            assert runtime.spec.network == "visual-attention"
            assert runtime(np.zeros((60, 60, 3), np.uint8)).faces == ()


def test_a_folder_of_that_name_that_is_no_bundle_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conv-attention").mkdir()
    assert find_bundle("conv-attention") == shipped_bundle()
    shutil.copytree(shipped_bundle("visual-attention"), tmp_path / "visual-attention")
    assert find_bundle("visual-attention") == Path("visual-attention")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("defualt", "did you mean 'default'?"),
        ("Visual-Attention", "did you mean 'visual-attention'?"),
        ("mine-int8.fr", "did you mean 'mine-int8.fer'?"),
        ("models/mine-int8", "did you mean 'models/mine-int8.fer'?"),
    ],
)
def test_a_mistyped_bundle_is_suggested(
    name: str, suggestion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine-int8.fer").mkdir()
    (tmp_path / "models" / "mine-int8.fer").mkdir(parents=True)
    with pytest.raises(
        BundleError, match=r"does not exist\. Fix: give the folder of a bundle, or one that ships"
    ) as caught:
        find_bundle(name)
    assert suggestion in str(caught.value)


@pytest.mark.parametrize("bundle", ["", 7, b"default"])
def test_what_is_no_bundle_is_not_the_default(bundle: object) -> None:
    with pytest.raises((BundleError, UsageError)):
        Runtime(bundle)  # type: ignore[arg-type]

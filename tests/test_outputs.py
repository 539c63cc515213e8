"""Checks of outputs before any work: kinds, folders, and inputs that would be overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fer_edge.errors import UsageError
from fer_edge.outputs import BUNDLE, FILE, FOLDER, STREAM, Output, check_outputs


def refused(path: Path | str, kind: str = FILE, inputs: tuple[Path | str, ...] = (), **more: object) -> str:
    with pytest.raises(UsageError) as caught:
        check_outputs([Output("--output", Path(path), kind, **more)], inputs)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a picture, a bundle, an empty folder, links and a pipe."""
    for name in ("photos", "other.fer", "old.fer", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    (tmp_path / "other.fer" / "notes.txt").write_text("x")
    (tmp_path / "old.fer" / "manifest.json").write_text("{}")
    (tmp_path / "link.png").symlink_to(tmp_path / "photos" / "a.png")
    os.link(tmp_path / "photos" / "a.png", tmp_path / "hard.png")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize("kind", [FILE, STREAM])
@pytest.mark.parametrize("name", ["photos/a.png", "photos/../photos/a.png", "link.png", "hard.png"])
def test_an_input_is_not_overwritten_by_any_of_its_names(data: Path, name: str, kind: str) -> None:
    assert "would overwrite the input" in refused(data / name, kind, (data / "photos" / "a.png",))


def test_a_file_of_a_folder_that_is_read_is_an_input(data: Path) -> None:
    assert "would overwrite" in refused(data / "photos" / "a.png", FILE, (data / "photos",))
    check_outputs([Output("--output", data / "photos" / "new.png")], (data / "photos",))
    assert "would overwrite" in refused(data / "photos", FOLDER, (data / "photos",))
    check_outputs([Output("--output", data / "photos" / "out", FOLDER)], (data / "photos",))


def test_a_bundle_that_holds_an_input_is_not_replaced(data: Path) -> None:
    weights = data / "old.fer" / "w.safetensors"
    weights.write_bytes(b"x")
    assert "would overwrite" in refused(data / "old.fer", BUNDLE, (weights,))


def test_a_bundle_is_replaced_only_on_request(data: Path) -> None:
    check_outputs([Output("--output", data / "old.fer", BUNDLE, overwrite=True)])
    with pytest.raises(UsageError, match=r"is a bundle already\. Fix: .*--overwrite"):
        check_outputs([Output("--output", data / "old.fer", BUNDLE, overwrite=False)])
    check_outputs([Output("--output", data / "new.fer", BUNDLE, overwrite=False)])


def test_two_outputs_are_two_files(data: Path) -> None:
    same = [Output("--output", data / "x"), Output("--jsonl", data / "photos" / ".." / "x", STREAM)]
    with pytest.raises(UsageError, match="--output and --jsonl are both"):
        check_outputs(same)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("photos", FILE, "is a folder. Fix: give the name of a file in it"),
        ("pipe", FILE, "is a device, pipe or socket"),
        ("photos/a.png", FOLDER, "is a file. Fix: give a folder"),
        ("photos/a.png/x", FILE, "a.png is a file. Fix: give another path"),
        ("photos/a.png/x/y.fer", BUNDLE, "a.png is a file. Fix: give another path"),
        ("other.fer", BUNDLE, "exists and is not a bundle"),
        ("photos/a.png", BUNDLE, "is a file. Fix: give a folder"),
        ("a\0b", FILE, "must be a path"),
    ],
)
def test_forms(data: Path, name: str, kind: str, message: str) -> None:
    assert message in refused(f"{data}/{name}", kind)


def test_what_can_be_written_is_accepted_and_nothing_is_created(data: Path) -> None:
    before = sorted(data.rglob("*"))
    for name, kind in (
        ("new/deep/x.png", FILE), ("pipe", STREAM), ("photos", FOLDER), ("new", FOLDER),
        ("old.fer", BUNDLE), ("empty", BUNDLE), ("new.fer", BUNDLE),
    ):  # fmt: skip
        check_outputs([Output("--output", data / name, kind)], ("rtsp://camera", "0", "default", None))
    check_outputs([Output("--jsonl", Path("/dev/null"), STREAM)])
    assert sorted(data.rglob("*")) == before


def test_a_mount_point_and_the_working_folder_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is the working directory" in refused(".", BUNDLE)
    assert "is a mount point" in refused("/", BUNDLE)


def test_suffixes(tmp_path: Path) -> None:
    assert "expected .onnx" in refused(tmp_path / "m.pt", FILE, suffixes=(".onnx",))
    check_outputs([Output("--output", tmp_path / "m.ONNX", FILE, (".onnx",))])


def test_a_folder_that_takes_no_files() -> None:
    """Root can write everywhere, so the check runs as another user."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            for path, kind in (("/etc/new.png", FILE), ("/etc/new/x.fer", BUNDLE), ("/etc", FOLDER)):
                assert "/etc is not writable. Fix:" in refused(path, kind)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

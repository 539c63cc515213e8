"""Image files that are damaged, hostile, gray or transparent."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge._utils.image_size import declared_size
from fer_edge._utils.images import list_images, read_image
from fer_edge._utils.listing import describe, list_folders
from fer_edge.errors import DataError


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 4096, png_claiming(65535, 65535)],
    ids=["empty", "text", "header", "garbage", "huge"],
)
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.png (is not an image|has 65535×65535 pixels, expected at most 64 mega)"
    ):
        read_image(path)


@pytest.mark.parametrize("name", ["none.png", "."])
def test_images_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert list_images(tmp_path) == ()
    with pytest.raises(DataError, match=r"cannot read .*a\.png: it is not a file\. Fix:"):
        read_image(tmp_path / "a.png")


def test_a_chunk_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    """OpenCV allocated 2 GiB for this file."""
    header = png_claiming(10, 12)[:33]
    (tmp_path / "a.png").write_bytes(header + struct.pack(">I", 0x7FFFFFF0) + b"IDAT" + bytes(60))
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        read_image(tmp_path / "a.png")


def test_images_are_listed_in_natural_order_without_what_is_no_data(tmp_path: Path) -> None:
    names = ["A1.png", "a02.png", "a2.PNG", "a10.jpg", "b.pgm", "c.gif"]
    for name in [*names, "._a1.png", ".hidden.jpg", "Thumbs.db", "notes.txt", "x.heic"]:
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, target in (("up", ".."), ("here", "."), ("root", "/"), ("beside", "d.png")):
        (tmp_path / name).symlink_to(target)
    assert [p.name for p in list_folders(tmp_path)] == ["beside", "d.png"]
    assert [p.name for p in list_images(tmp_path)] == names


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    for name in (b"a\nb.png", b"\xff.png", b"x" * 200):
        (tmp_path / os.fsdecode(name)).touch()
    text = describe(tmp_path)
    assert "a\\nb.png" in text
    assert "\\udcff.png" in text
    assert len(text.encode()) < 300


def test_gray_and_transparent_images_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((4, 5), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 5, 4), 7, np.uint8))
    for name in ("gray.png", "alpha.png"):
        image = read_image(tmp_path / name)
        assert image.shape == (4, 5, 3)
        assert (image == 7).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "jp2", "ppm", "pgm", "pam", "gif"])
def test_the_size_in_the_header_is_that_of_the_image(suffix: str) -> None:
    channels = 1 if suffix == "pgm" else 3
    try:
        encoded, data = cv2.imencode(f".{suffix}", np.zeros((48, 80, channels), np.uint8))
    except cv2.error:
        encoded = False
    if not encoded:
        pytest.skip(f"this OpenCV writes no {suffix}")
    assert declared_size(data.tobytes()) == (80, 48)


def bomb(kind: str) -> bytes:
    """A small file that declares 30,000×30,000 pixels."""
    if kind == "png":
        return png_claiming(30_000, 30_000)
    encoded, data = cv2.imencode(f".{kind}", np.zeros((48, 80, 3), np.uint8))
    assert encoded
    content = data.tobytes()
    old, new = {
        "jpg": (struct.pack(">HH", 48, 80), struct.pack(">HH", 30_000, 30_000)),
        "bmp": (struct.pack("<ii", 80, 48), struct.pack("<ii", 30_000, -30_000)),
        "ppm": (b"80 48", b"30000 30000"),
    }[kind]
    assert old in content
    return content.replace(old, new, 1)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "ppm"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(bomb(kind))
    with pytest.raises(
        DataError, match=r"a\.png has 30000×30000 pixels, expected at most 64 megapixels\. Fix:"
    ):
        read_image(tmp_path / "a.png")

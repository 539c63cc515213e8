"""Image dimensions declared in a file's header, read before anything is decoded.

OpenCV detects the format from the content of a file, not from its suffix. Formats not listed here are not decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

#: 8192×8192 pixels. At three bytes per pixel, with the decoder's buffers, they stay below 0.5 GiB.
MAX_PIXELS = 64 << 20

Sizes = Iterator[tuple[int, int]]
_PNM_TOKENS = re.compile(rb"P[1-6]\s+([0-9]{1,9})\s+([0-9]{1,9})\s")
_PNM_COMMENT = re.compile(rb"#[^\r\n]*")
_PAM = re.compile(rb"WIDTH\s+([0-9]{1,9})\s[^\0]{0,200}?HEIGHT\s+([0-9]{1,9})\s", re.DOTALL)
_HEADER_BYTES = 1 << 16


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels, of the largest image in the file; ``None`` if the header is not recognised."""
    for signature, read in _FORMATS:
        if signature.match(data):
            try:
                return max(read(data), key=lambda size: size[0] * size[1], default=None)
            except (struct.error, IndexError):  # the header is truncated
                return None
    return None


def _png(data: bytes) -> Sizes:
    # OpenCV allocates the declared length of a chunk: up to 2 GiB for a file of 100 bytes.
    at, kind = 8, b""
    while at + 12 <= len(data) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        at += 12 + length
    if at <= len(data) and data[12:16] == b"IHDR":
        yield struct.unpack_from(">II", data, 16)


def _jpeg(data: bytes) -> Sizes:
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            return
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            yield width, height
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + max(length, 2)


def _bmp(data: bytes) -> Sizes:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    yield abs(width), abs(height)


def _gif(data: bytes) -> Sizes:
    yield struct.unpack_from("<HH", data, 6)


def _webp(data: bytes) -> Sizes:
    if data[12:16] == b"VP8X":
        yield tuple(1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))  # type: ignore[misc]
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        yield 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        yield width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> Sizes:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    start, step, value = (at + 8, 20, 12) if big else (at + 2, 12, 8)
    found = {}
    for entry in range(start, start + step * min(count, 1000), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            form = {3: "H", 4: "I", 16: "Q"}.get(kind, "I")
            (found[tag],) = struct.unpack_from(order + form, data, entry + value)
    if len(found) == 2:
        yield found[256], found[257]


def _jpeg2000(data: bytes) -> Sizes:
    for match in re.finditer(rb"\xff\x4f\xff\x51", data):
        width, height, left, top = struct.unpack_from(">IIII", data, match.end() + 4)
        yield width - left, height - top


def _avif(data: bytes) -> Sizes:
    for match in re.finditer(b"ispe", data[:_HEADER_BYTES]):
        yield struct.unpack_from(">II", data, match.end() + 4)


def _pnm(data: bytes) -> Sizes:
    text = _PNM_COMMENT.sub(b"", data[:_HEADER_BYTES])
    match = _PAM.search(text) if data[:2] == b"P7" else _PNM_TOKENS.match(text)
    if match:
        yield int(match[1]), int(match[2])


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Sizes]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"), _tiff),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", re.DOTALL), _jpeg2000),
    (re.compile(rb"....ftyp(avif|avis|mif1)", re.DOTALL), _avif),
    (re.compile(rb"P[1-7]\s"), _pnm),
)

"""Detection of a file's kind from its content, with advice for every kind that is not a checkpoint.

Nothing here needs PyTorch, so that a command can check a file before it requires packages.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fer_edge._utils.inert_pickle import LimitedReader, NotReadable, read_pickle
from fer_edge._utils.safetensors_header import looks_like_safetensors, parse_json, read_safetensors_header
from fer_edge._utils.text import printable
from fer_edge.errors import WeightsError

#: Errors that Python's zipfile raises for damaged or hostile files.
ZIP_ERRORS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, IndexError, TypeError,
    OverflowError, NotImplementedError, RuntimeError, MemoryError,
)  # fmt: skip
_HEAD_BYTES = 4096
_MAX_JSON_BYTES = 4 << 20
_MAX_LISTED = 1000
_MAX_OPERATIONS = 100_000
_TENSORFLOW_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
#: First pickle in a file of torch.save before PyTorch 1.6.
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_STATE_DICT = "torch.save(model.state_dict(), 'weights.pt')"
_ARCHIVE = "unpack it and give the checkpoint in it"
_KERAS = "give a PyTorch checkpoint, .safetensors, or a TensorFlow V2 checkpoint, since this format cannot be converted"
_NO_WEIGHTS = "give the weights file"

#: First bytes → kind of the file, and advice.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "run git lfs pull in its repository, or download the file itself"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes (.h5)", _KERAS),
    (b"GGUF", "a GGUF file, which is for language models", "give a PyTorch checkpoint or .safetensors"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ARCHIVE),
    (b"Rar!\x1a\x07", "a RAR archive", _ARCHIVE),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"BZh", "a bzip2 archive", _ARCHIVE),
    (b"\xfd7zXZ\0", "an xz archive", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _ARCHIVE),
    (b"\xff\xd8\xff", "a JPEG picture", _NO_WEIGHTS),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _NO_WEIGHTS),
    (b"GIF8", "a GIF picture", _NO_WEIGHTS),
    (b"%PDF", "a PDF document", _NO_WEIGHTS),
    (b"\x7fELF", "a program or library", _NO_WEIGHTS),
    (b"ftrt", "a TensorRT engine", "give the weights that it was built from"),
    (b"\x93NUMPY", "one NumPy array (.npy)", "give the checkpoint; --canonical-shape takes an array"),
)  # fmt: skip
#: Offset and bytes there → kind of the file, and advice.
_INNER_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (257, b"ustar", "a tar archive", _ARCHIVE),
    (4, b"TFL3", "a TensorFlow Lite model", _KERAS),
    (8, b"WEBP", "a WebP picture", _NO_WEIGHTS),
    (4, b"ftyp", "a video", _NO_WEIGHTS),
)


def tensorflow_prefix(path: Path) -> Path | None:
    """Return the prefix of a TensorFlow checkpoint if ``path`` is that prefix or one of the files; else ``None``."""
    if _TENSORFLOW_PART.search(path.name):
        return path.with_name(_TENSORFLOW_PART.sub("", path.name))
    siblings = path.parent.glob("*") if path.name and path.parent.is_dir() and not path.exists() else ()
    parts = (s.name[len(path.name) :] for s in siblings if s.name.startswith(path.name))
    return path if any(_TENSORFLOW_PART.fullmatch(part) for part in parts) else None


def refuse_foreign(path: Path) -> None:
    """Refuse a path that cannot be a checkpoint of PyTorch, safetensors, NumPy or TensorFlow.

    Raises
    ------
    WeightsError
        If it is missing or of another kind; the message names the kind and the remedy.
    """
    if path.is_dir():
        what, advice = _folder_kind(path)
    elif tensorflow_prefix(path) is not None:
        return
    elif not path.is_file():
        raise WeightsError(
            f"checkpoint {path} does not exist or is not a file. Fix: give --weights another path"
        )
    else:
        try:
            found = _file_kind(path)
        except OSError as error:
            raise WeightsError(
                f"{path} cannot be read ({error.strerror}). Fix: give a readable file"
            ) from error
        if found is None:
            return
        what, advice = found
    raise WeightsError(f"{path} cannot be read (it is {what}), expected a complete checkpoint. Fix: {advice}")


def judge_weights(path: Path, network: str) -> None:
    """Call :func:`refuse_foreign`, except for the folder of ensemble members, and missing files, which loading reports."""
    if path.exists() and not (network == "resmasking-ensemble" and path.is_dir()):
        refuse_foreign(path)


def is_safetensors(path: Path) -> bool:
    """Return ``True`` if the content of a file is safetensors, regardless of its name."""
    with path.open("rb") as file:
        return looks_like_safetensors(file.read(9))


def _file_kind(path: Path) -> tuple[str, str] | None:
    """Return the kind of a file and advice; ``None`` if it may be a checkpoint."""
    size = path.stat().st_size
    if size == 0:
        return "empty, 0 bytes", "download it again"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if looks_like_safetensors(head):
        return _safetensors_kind(path)
    for signature, what, advice in _SIGNATURES:
        if head.startswith(signature):
            return what + _lfs_size(head), advice
    for offset, signature, what, advice in _INNER_SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return what, advice
    if head.startswith(b"PK"):
        return _zip_kind(path, size)
    if head.startswith(b"\x80") and len(head) > 1 and head[1] in (2, 3, 4, 5):
        if head.startswith(_LEGACY_TORCH):
            return None
        return (
            f"a pickle, but not from torch.save{_named_in(path, size)}",
            f"get a file made with {_STATE_DICT}",
        )
    return _text_kind(path, head, size) or _protobuf_kind(path, size) or _unknown(head, size)


def _unknown(head: bytes, size: int) -> tuple[str, str]:
    return (
        f"of no known kind: {size} bytes, the first are {head[:8].hex(' ')}",
        "give a PyTorch checkpoint, .safetensors, .npz or a TensorFlow checkpoint, or download it again",
    )


def _named_in(path: Path, size: int) -> str:
    """Return the name of an object in a pickle, for a message; no object is created."""
    try:
        with path.open("rb") as file:
            named = read_pickle(LimitedReader(file, size), _MAX_OPERATIONS).named
    except NotReadable:
        return ""
    return f"; found the object {printable(min(named))}, which could run code" if named else ""


def _lfs_size(head: bytes) -> str:
    found = re.search(rb"^size (\d{1,15})$", head[:400], re.MULTILINE)
    return f" ({found[1].decode()} bytes)" if head.startswith(b"version ") and found else ""


def _safetensors_kind(path: Path) -> tuple[str, str] | None:
    try:
        read_safetensors_header(path)
    except ValueError as error:
        return f"not a complete safetensors file ({error})", "download or train it again"
    return None


def _zip_kind(path: Path, size: int) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS:
        return (
            f"a truncated or damaged ZIP, as PyTorch and NumPy write; of its {size} bytes the last, with the directory, are missing or wrong",
            "download it again, and compare the size",
        )
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "data.pkl" in inner:
        if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
            return (
                "a TorchScript archive, which contains code",
                f"load it with torch.jit.load if you trust it, and save only the weights: {_STATE_DICT}",
            )
        return None
    if any(name.endswith(".npy") for name in names):
        return None
    if "model.weights.h5" in inner:
        return "a Keras model (.keras)", _KERAS
    if {"manifest.json", "model.onnx"} <= inner:
        return "a zipped FER-Edge bundle", "unpack it and use the folder as a bundle: fer-edge run FOLDER"
    shown = ", ".join(printable(name) for name in names[:3]) or "nothing"
    return f"a ZIP archive with {shown}{', …' if len(names) > 3 else ''}", _ARCHIVE


def _text_kind(path: Path, head: bytes, size: int) -> tuple[str, str] | None:
    """Return the kind of a text file; a multi-byte character may be truncated at the end of the head."""
    if b"\0" in head:
        return None
    for encoded in (head, head[:-1], head[:-2], head[:-3]):
        try:
            text = encoded.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        break
    else:
        return None
    if sum(letter.isprintable() or letter.isspace() for letter in text) < 0.95 * len(text):
        return None
    start = text.lstrip()[:200].lower()
    if start.startswith(("<!doctype html", "<html", "<head")) or "<html" in start:
        return (
            "a web page (HTML), as a server sends instead of a file",
            "open the link in a browser and download the file itself",
        )
    if start.startswith(("{", "[")):
        return _json_kind(path, size)
    return f"a text file ({printable(' '.join(text.split())[:40])!r})", _NO_WEIGHTS


def _json_kind(path: Path, size: int) -> tuple[str, str]:
    try:
        value = parse_json(path.read_bytes()) if size <= _MAX_JSON_BYTES else None
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("weight_map"), dict):
        shards = sorted({printable(str(name)) for name in islice(value["weight_map"].values(), _MAX_LISTED)})
        return (
            f"the index of weights in {len(shards)} files ({', '.join(shards[:3])})",
            f"load them into the model and save one file: {_STATE_DICT}",
        )
    return "a JSON file", _NO_WEIGHTS


def _protobuf_kind(path: Path, size: int) -> tuple[str, str] | None:
    fields = list(islice(_top_fields(path, size), 64))
    numbers = {number for number, _ in fields}
    if not fields or fields[0] not in ((1, 0), (1, 2)):
        return None
    if fields[0] == (1, 0) and 7 in numbers:
        return (
            "an exported ONNX model",
            "give the weights themselves, such as the .pt or .safetensors file",
        )
    if fields[0] == (1, 0) and numbers == {1, 2}:
        return (
            "a TensorFlow SavedModel (saved_model.pb)",
            f"give its checkpoint, variables/variables.index; otherwise {_KERAS}",
        )
    if fields[0] == (1, 2) and numbers <= {1, 2, 3, 4, 5} and fields.count((1, 2)) > 1:
        return "a TensorFlow graph (.pb)", f"give the checkpoint that it was frozen from; otherwise {_KERAS}"
    return None


def _top_fields(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield number and wire type of a message's fields; an invalid field ends it with (0, 0)."""
    with path.open("rb") as file:

        def varint() -> int:
            value = 0
            for shift in range(0, 70, 7):
                byte = file.read(1)
                if not byte:
                    return -1
                value |= (byte[0] & 0x7F) << shift
                if byte[0] < 0x80:
                    return value
            return -1

        while file.tell() < size:
            tag = varint()
            wire = tag & 7
            length = {0: 0, 1: 8, 5: 4}.get(wire, -1)
            if wire == 2:
                length = varint()
            elif wire == 0 and varint() < 0:
                length = -1
            if tag < 8 or length < 0 or file.tell() + length > size:
                yield 0, 0
                return
            yield tag >> 3, wire
            file.seek(length, 1)


def _folder_kind(folder: Path) -> tuple[str, str]:
    names = sorted(entry.name for entry in islice(folder.iterdir(), _MAX_LISTED))
    found = set(names)
    if {"manifest.json", "model.onnx"} <= found:
        return "a FER-Edge bundle", f"run the bundle with fer-edge run {folder}"
    if "saved_model.pb" in found or "saved_model.pbtxt" in found:
        variables = folder / "variables" / "variables.index"
        advice = f"give its checkpoint, {variables}" if variables.is_file() else _KERAS
        return "a TensorFlow SavedModel folder", advice
    if ".metadata" in found or any(name.endswith(".distcp") for name in names):
        return (
            "a sharded checkpoint of torch.distributed",
            f"merge it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt",
        )
    index = [name for name in names if name.endswith(".index.json")]
    if index:
        return (
            f"a folder of weights in several files ({printable(index[0])} names them)",
            f"load them into the model and save one file: {_STATE_DICT}",
        )
    if {"data.pkl", "data"} <= found:
        return "an unpacked file of torch.save", "give the original file, which was unpacked"
    suffixes = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".index", ".tar")
    candidates = [name for name in names if name.endswith(suffixes)]
    if candidates:
        shown = ", ".join(printable(name) for name in candidates[:5])
        return "a folder", f"give one file in it: {shown}"
    shown = ", ".join(printable(name) for name in names[:5]) or "nothing"
    return f"a folder with {shown}", _NO_WEIGHTS

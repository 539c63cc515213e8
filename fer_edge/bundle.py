"""The bundle: a folder that holds everything needed to run one network correctly.

``manifest.json`` names every file with its size and sha256; :func:`open_bundle` checks them all before anything is
loaded, and a model is loaded from the bytes that were hashed. A bundle is written whole or not at all. The hashes
show that a bundle is complete and unchanged, not who made it: anyone who can replace a file can replace the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fer_edge._utils.files import sha256_of, whole_folder
from fer_edge.errors import BundleError
from fer_edge.manifest import (
    ENGINES,
    FORMAT_VERSION,
    FP16_MODEL,
    FP32_MODEL,
    MANIFEST,
    PRECISIONS,
    RANGES,
    SELF_TEST,
    FileRecord,
    Manifest,
    int8_model,
    read_manifest,
)
from fer_edge.spec import ModelSpec

__all__ = [
    "ENGINES",
    "FP16_MODEL",
    "FP32_MODEL",
    "MANIFEST",
    "PRECISIONS",
    "RANGES",
    "SELF_TEST",
    "Bundle",
    "FileRecord",
    "Manifest",
    "ModelFile",
    "int8_model",
    "model_key",
    "open_bundle",
    "write_bundle",
]

_MAX_FOUND = 4096
_MAX_NAME_CHARS = 80
_LOOKS, _BETWEEN_LOOKS_S = 3, 0.02
#: Folder of the shipped bundles, whose names are those of their weights.
_SHIPPED_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file, read once, so that the bytes that were hashed are the bytes that are loaded.

    Attributes
    ----------
    path : Path
        Location, for messages.
    content : bytes
        Content of the file.
    engines : mapping or None
        Paths of engines and their headers that the same manifest names → their sha256; ``None`` for a file without
        a manifest.
    """

    path: Path
    content: bytes = field(repr=False)
    engines: Mapping[Path, str] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    def vouches_for(self, engine: Path, sha256: str) -> bool:
        """Return whether an engine may be used with this file: its manifest lists the engine, or it has no manifest."""
        return self.engines is None or self.engines.get(engine) == sha256

    def __str__(self) -> str:
        return str(self.path)


def model_key(precision: str, dialect: str) -> str:
    """Return the key of a model in the self-test references: ``fp32``, ``fp16``, ``int8.cpu``, ``int8.tensorrt``."""
    return f"int8.{dialect}" if precision == "int8" else precision


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle."""

    path: Path
    manifest: Manifest

    @property
    def spec(self) -> ModelSpec:
        """Input and output contract of the network."""
        return self.manifest.spec

    def model_path(self, precision: str, dialect: str) -> Path:
        """Return the ONNX file for a precision and a Q/DQ dialect.

        Raises
        ------
        BundleError
            If the bundle does not hold it; the message names the command that builds it.
        """
        return self.path / self._model_name(precision, dialect)

    def read_model(self, precision: str, dialect: str) -> ModelFile:
        """Return the ONNX file for a precision and a Q/DQ dialect, read now and checked.

        Raises
        ------
        BundleError
            If the bundle does not hold it, or it was changed since the bundle was opened.
        """
        name = self._model_name(precision, dialect)
        engines = {
            self.path / other: record.sha256
            for other, record in self.manifest.files.items()
            if PurePosixPath(other).parts[0] == ENGINES
        }
        return ModelFile(self.path / name, self.read(name), engines)

    def read(self, name: str) -> bytes:
        """Return one file that the manifest names, read now and checked.

        Raises
        ------
        BundleError
            If the manifest does not name it, or it was changed since the bundle was opened.
        """
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"{self.path} holds no {name}. Fix: build the bundle again")
        try:
            with (self.path / name).open("rb") as file:
                content = file.read(record.size + 1)
        except OSError as error:
            raise BundleError(
                f"{self.path / name} cannot be read ({error.strerror}). Fix: build the bundle again"
            ) from error
        if len(content) != record.size or hashlib.sha256(content).hexdigest() != record.sha256:
            raise _altered(self.path, name)
        return content

    def _model_name(self, precision: str, dialect: str) -> str:
        if precision not in PRECISIONS:
            raise BundleError(f"unknown precision {precision!r}. Fix: choose from {', '.join(PRECISIONS)}")
        name = {"fp32": FP32_MODEL, "fp16": FP16_MODEL, "int8": int8_model(dialect)}[precision]
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.path} holds no {precision} model ({name}). "
                f"Fix: run {self._build_command(precision)} and use that bundle"
            )
        return name

    def _build_command(self, precision: str) -> str:
        """Return the command that builds the bundle of these weights in another precision."""
        shipped = self.path.resolve().parent == _SHIPPED_FOLDER.resolve()
        weights = self.path.stem if shipped else "random" if self.manifest.timing_only else "FILE"
        words = ("fer-edge", "build", "--model", self.spec.network, "--weights", weights, f"--{precision}")
        return shlex.join((*words, "--output", f"{self.path.stem}-{precision}.fer"))


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and verify every file in it.

    Symbolic links are followed, since package tools and caches create them; integrity rests on the sha256. Files whose
    name begins with a dot are ignored, since file managers and version control create them.

    Raises
    ------
    BundleError
        If it is missing, incomplete, altered, of another format version, names a file outside its folder, or holds
        a file that the manifest does not name.
    """
    root = Path(path)
    manifest = read_manifest(root)
    for name, record in manifest.files.items():
        file = _inside(root, name)
        try:
            if not file.is_file():
                raise BundleError(
                    f"{root} is incomplete: {_shown(name)} is missing. Fix: build the bundle again"
                )
            whole = file.stat().st_size == record.size and sha256_of(file) == record.sha256
        except (OSError, ValueError, RuntimeError) as error:  # a link to itself, NUL, a name that is too long
            raise BundleError(
                f"{root} names {name[:80]!r}, which cannot be read. Fix: do not use this bundle"
            ) from error
        if not whole:
            raise _altered(root, name)
    unlisted = [name for name in _files_below(root) if name not in manifest.files and name != MANIFEST]
    if unlisted:
        raise BundleError(
            f"{root} holds {unlisted[0]!r:.80}, which its manifest does not name. Fix: remove it, or build the bundle again"
        )
    return Bundle(root, manifest)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Copy ``files`` (name in the bundle → source) to a new bundle at ``path`` and verify it.

    An existing bundle at ``path`` is replaced only once the new one is complete.
    """
    if _is_something_else(path):
        raise BundleError(f"{path} exists and is not a bundle. Fix: choose another --output")
    with whole_folder(path) as part:
        records = {}
        for name, source in files.items():
            target = _inside(part, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            records[name] = FileRecord(target.stat().st_size, sha256_of(target))
        whole = dataclasses.replace(manifest, files=records, format_version=FORMAT_VERSION)
        text = json.dumps(whole.to_dict(), indent=2, allow_nan=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        open_bundle(part)
    return Bundle(path, whole)


def _is_something_else(path: Path) -> bool:
    """Return whether ``path`` is anything but a bundle or an empty folder; retries, as another writer may be swapping a bundle."""
    for _ in range(_LOOKS):
        if not path.exists() or (path / MANIFEST).is_file() or (path.is_dir() and not any(path.iterdir())):
            return False
        time.sleep(_BETWEEN_LOOKS_S)
    return True


def _altered(root: Path, name: str) -> BundleError:
    return BundleError(
        f"{root} was altered: {_shown(name)} does not match its sha256. Fix: build the bundle again"
    )


def _shown(name: str) -> str:
    """Return a name for a message; an untrusted manifest may hold terminal control characters."""
    return name if name.isprintable() and len(name) <= _MAX_NAME_CHARS else ascii(name[:_MAX_NAME_CHARS])


def _inside(root: Path, name: str) -> Path:
    """Return ``root / name`` where the name itself stays inside ``root``."""
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise BundleError(
            f"{root} names {name[:80]!r}, which lies outside the bundle. Fix: do not use this bundle"
        )
    return root / pure


def _files_below(root: Path) -> Iterator[str]:
    """Yield the names of the files below ``root``, links followed, without hidden ones."""
    seen: set[str] = set()
    found = 0
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and place not in seen]
        seen.add(place)
        for name in names:
            found += 1
            if found > _MAX_FOUND:
                raise BundleError(
                    f"{root} holds more than {_MAX_FOUND} files, too many for a bundle. Fix: give the folder of a bundle"
                )
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def require_attention(bundle: Bundle) -> None:
    """Raise :class:`BundleError` if the network in ``bundle`` has no output ``attention``."""
    if "attention" not in bundle.spec.outputs:
        network = bundle.spec.network
        raise BundleError(
            f"{bundle.path} has no attention output (its outputs are {', '.join(bundle.spec.outputs)}). "
            f"Fix: run fer-edge build --model {network} --weights FILE --attention, or "
            "fer-edge explain --method gradcam, which works for every network"
        )

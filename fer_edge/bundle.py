"""The bundle: a folder that holds everything needed to run one network correctly.

``manifest.json`` names every file with its size and sha256; :func:`open_bundle` checks them all before
anything is loaded. A bundle is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fer_edge._files import sha256_of, whole_folder
from fer_edge.errors import BundleError
from fer_edge.spec import ModelSpec

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FP32_MODEL = "model.onnx"
FP16_MODEL = "model.fp16.onnx"
RANGES = "ranges.json"
PRECISIONS = ("fp32", "fp16", "int8")
_MANIFEST_LIMIT_BYTES = 4 << 20


def int8_model(dialect: str) -> str:
    """Return the file name of the Q/DQ model in one dialect."""
    return f"model.int8.{dialect}.onnx"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes
    ----------
    spec : ModelSpec
        Pixels in, labels out.
    precision : {"fp32", "fp16", "int8"}
        What the bundle was built for, and what is loaded unless another is asked for.
    provenance : mapping
        Network, options, paper, weights sha256, licence, training data. ``weights`` is ``"random"``
        for a bundle that is good for timing only.
    tools : mapping
        Versions that made the bundle.
    metrics : mapping
        What was measured, and on what.
    files : mapping
        Relative path → :class:`FileRecord`.
    temperature : float
        T > 0: probabilities are softmax(logits / T). 1 where none was fitted.
    """

    spec: ModelSpec
    precision: str
    provenance: Mapping[str, Any]
    tools: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    temperature: float = 1.0
    format_version: int = FORMAT_VERSION

    @property
    def timing_only(self) -> bool:
        """Whether the weights are random."""
        return self.provenance.get("weights") == "random"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


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
            If the bundle does not hold it; the message names the command that makes it.
        """
        if precision not in PRECISIONS:
            raise BundleError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
        name = {"fp32": FP32_MODEL, "fp16": FP16_MODEL, "int8": int8_model(dialect)}[precision]
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.path} holds no {precision} model ({name}): "
                f"run fer-edge build --model {self.spec.network} --{precision}"
            )
        return self.path / name


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and verify every file in it.

    Raises
    ------
    BundleError
        If it is missing, incomplete, altered, of another format version, or names a file outside
        its folder.
    """
    root = Path(path)
    manifest = _read_manifest(root)
    for name, record in manifest.files.items():
        try:
            file = _inside(root, name)
            if not file.is_file():
                raise BundleError(f"{root} is incomplete: {name} is missing; build the bundle again")
            whole = file.stat().st_size == record.size and sha256_of(file) == record.sha256
        except (OSError, ValueError, RuntimeError) as error:  # a link to itself, NUL, a name that is too long
            raise BundleError(
                f"{root} names {name[:80]!r}, which cannot be read: do not use this bundle"
            ) from error
        if not whole:
            raise BundleError(f"{root} was altered: {name} does not match its sha256; build the bundle again")
    return Bundle(root, manifest)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Copy ``files`` (name in the bundle → source) to a new bundle at ``path`` and verify it.

    An existing bundle at ``path`` is replaced only once the new one is whole.
    """
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a bundle: choose another --output")
    with whole_folder(path) as part:
        records = {}
        for name, source in files.items():
            target = _inside(part, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            records[name] = FileRecord(target.stat().st_size, sha256_of(target))
        whole = dataclasses.replace(manifest, files=records)
        text = json.dumps(whole.to_dict(), indent=2, allow_nan=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        open_bundle(part)
    return Bundle(path, whole)


def _read_manifest(root: Path) -> Manifest:
    file = root / MANIFEST
    if not root.exists():
        raise BundleError(f"bundle {root} does not exist: run fer-edge build, or check the path")
    if not file.is_file():
        raise BundleError(f"{root} is not a bundle: it has no {MANIFEST}")
    if file.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise BundleError(f"{file} is larger than {_MANIFEST_LIMIT_BYTES} bytes: this is no manifest of ours")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        version = value["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{file} cannot be read ({type(error).__name__}): build the bundle again"
        ) from error
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{root} has format version {version!r}, this FER-Edge reads {FORMAT_VERSION}: "
            "build it again with this version"
        )
    try:
        fields = dict(value)
        fields["spec"] = ModelSpec.from_dict(value["spec"])
        fields["files"] = {
            name: FileRecord(int(r["size"]), str(r["sha256"])) for name, r in value["files"].items()
        }
        manifest = Manifest(**fields)
        if not all(isinstance(m, dict) for m in (manifest.provenance, manifest.tools, manifest.metrics)):
            raise TypeError("provenance, tools and metrics must be objects")
        if not (isinstance(manifest.temperature, int | float) and 0 < manifest.temperature < math.inf):
            raise ValueError(f"the temperature must be a number above 0, found {manifest.temperature!r}")
        manifest.to_dict()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(
            f"{file} cannot be read ({type(error).__name__}: {error}): build it again"
        ) from error
    if manifest.precision not in PRECISIONS or FP32_MODEL not in manifest.files:
        raise BundleError(f"{file} names no {FP32_MODEL} or an unknown precision: build the bundle again")
    return manifest


def _inside(root: Path, name: str) -> Path:
    """Return ``root / name`` if it stays inside ``root``, links followed."""
    pure = PurePosixPath(name)
    file = root / pure
    if pure.is_absolute() or ".." in pure.parts or not file.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{root} names {name!r}, which lies outside the bundle: do not use this bundle")
    return file

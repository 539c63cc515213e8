"""The content of ``manifest.json``, in format versions 1 and 2.

Version 2 adds the prior of the training labels and the self-test. Version 1 is still read, with defaults that keep its
probabilities; version 2 is written.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_edge._utils.checks import is_number
from fer_edge.errors import BundleError, UsageError, without_fix
from fer_edge.probabilities import Prior, make_rule
from fer_edge.spec import ModelSpec

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
MANIFEST = "manifest.json"
FP32_MODEL = "model.onnx"
FP16_MODEL = "model.fp16.onnx"
RANGES = "ranges.json"
SELF_TEST = "self_test.npz"
REPORT = "report.json"
REPORT_PAGE = "report.html"
#: For the DLA with TensorRT 10, which does not support Q/DQ models.
CALIBRATION_CACHE = "calibration.tensorrt10.cache"
#: Folder of engines that were compiled ahead of time.
ENGINES = "engines"
PRECISIONS = ("fp32", "fp16", "int8")
#: Class priors that the logits of a network can imply; ``None``: unknown.
LOGIT_PRIORS = ("training", "uniform", None)
_MANIFEST_LIMIT_BYTES = 4 << 20
_MAX_FILES = 1024
_MAX_FILE_BYTES = 1 << 40
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUM_TOLERANCE = 1e-6
_MIN_FREQUENCY = 1e-6  # training clips them at 1e-4
#: Fitted temperatures lie between 0.05 and 20; beyond these bounds all probabilities saturate or are equal.
TEMPERATURES = (0.01, 100.0)
#: Fields that version 1 does not have.
_SINCE_2 = ("class_frequencies", "logit_prior", "default_prior", "self_test")


def int8_model(dialect: str) -> str:
    """Return the file name of the Q/DQ model in one dialect."""
    return f"model.int8.{dialect}.onnx"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 of one file of a bundle."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 0 <= self.size <= _MAX_FILE_BYTES:
            raise ValueError(f"the size of a file must be a number of bytes, found {self.size!r:.40}")
        if not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"a sha256 has 64 hex digits, found {self.sha256!r:.80}")


@dataclass(frozen=True)
class SelfTestRecord:
    """The self-test record of a manifest.

    Attributes
    ----------
    insensitive : tuple of str
        Models, such as ``int8.cpu``, whose logits change by less than twice the tolerance with saturated INT8
        arithmetic: for these only the arithmetic probe detects it.
    tolerances : mapping
        Model → largest error, if tighter than the tolerance in the code. A wider one is ignored.
    """

    insensitive: tuple[str, ...] = ()
    tolerances: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: Any) -> SelfTestRecord:
        """Return the record from JSON types; a :class:`ValueError` names the fault."""
        if not isinstance(value, dict) or not value.keys() <= {"insensitive", "tolerances"}:
            raise ValueError("self_test must be an object of insensitive and tolerances")
        names, tolerances = value.get("insensitive", []), value.get("tolerances", {})
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("self_test.insensitive must be a list of names")
        if not (isinstance(tolerances, dict) and all(map(_is_positive, tolerances.values()))):
            raise ValueError("self_test.tolerances must be numbers above 0")
        return cls(tuple(names), {name: float(number) for name, number in tolerances.items()})


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes
    ----------
    spec : ModelSpec
        Input and output contract of the network.
    precision : {"fp32", "fp16", "int8"}
        Precision of the build; loaded unless another is requested.
    provenance : mapping
        Network, options, paper, weights sha256, licence, training data. ``weights`` is ``"random"``
        for a bundle that is for timing only.
    tools : mapping
        Versions of the tools that built the bundle.
    metrics : mapping
        Measurements, and the data that they were made on.
    files : mapping
        Relative path → :class:`FileRecord`.
    temperature : float
        T of :mod:`fer_edge.probabilities`, from 0.01 to 100. 1 if none was fitted.
    class_frequencies : mapping or None
        Class name → share π among the training labels, in the order of ``spec.class_names``; ``None`` if unknown.
    logit_prior : {"training", "uniform", None}
        Prior that softmax(logits / T) implies; ``None`` if unknown.
    default_prior : str, mapping or None
        Default prior, as in :func:`fer_edge.probabilities.make_rule`. ``None`` is ``training``.
    self_test : SelfTestRecord or None
        ``None`` for a bundle without reference outputs.
    format_version : int
        The version that was read.
    """

    spec: ModelSpec
    precision: str
    provenance: Mapping[str, Any]
    tools: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    temperature: float = 1.0
    class_frequencies: Mapping[str, float] | None = None
    logit_prior: str | None = None
    default_prior: Prior | None = None
    self_test: SelfTestRecord | None = None
    format_version: int = FORMAT_VERSION

    @property
    def timing_only(self) -> bool:
        """``True`` if the weights are random."""
        return self.provenance.get("weights") == "random"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


def read_manifest(root: Path) -> Manifest:
    """Read ``manifest.json`` of the bundle at ``root``.

    Raises
    ------
    BundleError
        If it is missing, damaged, inconsistent, or of another format version.
    """
    file = root / MANIFEST
    if not root.exists():
        raise BundleError(f"bundle {root} does not exist. Fix: run fer-edge build, or check the path")
    if not file.is_file():
        raise BundleError(f"{root} is not a bundle, it has no {MANIFEST}. Fix: give the folder of a bundle")
    if file.stat().st_size > _MANIFEST_LIMIT_BYTES:
        raise BundleError(
            f"{file} is larger than {_MANIFEST_LIMIT_BYTES} bytes, too large for a manifest. Fix: build the bundle again"
        )
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        version = value["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{file} cannot be read ({type(error).__name__}). Fix: build the bundle again"
        ) from error
    if type(version) is not int or version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise BundleError(
            f"{root} has format version {version!r:.40}, this FER-Edge reads {known}. "
            "Fix: build it again with this version, or install the FER-Edge that built it"
        )
    try:
        manifest = _parse(value, version)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(
            f"{file} cannot be read ({type(error).__name__}: {error}). Fix: build the bundle again"
        ) from error
    if manifest.precision not in PRECISIONS or FP32_MODEL not in manifest.files:
        raise BundleError(
            f"{file} names no {FP32_MODEL} or an unknown precision. Fix: build the bundle again"
        )
    return manifest


def _parse(value: Mapping[str, Any], version: int) -> Manifest:
    if version < 2 and (newer := [name for name in _SINCE_2 if name in value]):
        raise ValueError(f"format version {version} has no {', '.join(newer)}")
    fields = dict(value)
    fields["spec"] = spec = ModelSpec.from_dict(value["spec"])
    if len(value["files"]) > _MAX_FILES:
        raise ValueError(f"a bundle has at most {_MAX_FILES} files, found {len(value['files'])}")
    fields["files"] = {name: FileRecord(**record) for name, record in value["files"].items()}
    if fields.get("self_test") is not None:
        fields["self_test"] = SelfTestRecord.from_dict(fields["self_test"])
    fields["class_frequencies"] = parse_frequencies(fields.get("class_frequencies"), spec)
    manifest = Manifest(**fields)
    if not all(isinstance(m, dict) for m in (manifest.provenance, manifest.tools, manifest.metrics)):
        raise TypeError("provenance, tools and metrics must be objects")
    least, most = TEMPERATURES
    if not _is_positive(manifest.temperature) or not least <= manifest.temperature <= most:
        raise ValueError(
            f"the temperature must be a number from {least:g} to {most:g}, found {manifest.temperature!r:.40}"
        )
    if manifest.logit_prior not in LOGIT_PRIORS:
        raise ValueError(f"logit_prior must be training, uniform or null, found {manifest.logit_prior!r:.40}")
    if manifest.logit_prior == "uniform" and manifest.class_frequencies is None:
        raise ValueError("logits for uniform priors need class_frequencies, or the training prior is unknown")
    try:
        make_rule(manifest)
    except UsageError as error:
        raise ValueError(f"default_prior: {without_fix(error)}") from error
    if manifest.self_test is not None and SELF_TEST not in manifest.files:
        raise ValueError(f"it describes a self-test but does not name {SELF_TEST}")
    manifest.to_dict()
    return manifest


def parse_frequencies(value: Any, spec: ModelSpec) -> dict[str, float] | None:
    """Return class frequencies in the order of the classes; a :class:`ValueError` names the fault."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != set(spec.class_names):
        raise ValueError(f"class_frequencies must name the classes {', '.join(spec.class_names)}")
    found = {name: value[name] for name in spec.class_names}
    if (
        not all(is_number(share) and share >= _MIN_FREQUENCY for share in found.values())
        or abs(sum(found.values()) - 1) > _SUM_TOLERANCE
    ):
        raise ValueError(f"class_frequencies must be numbers of at least {_MIN_FREQUENCY:g} with sum 1")
    return {name: float(share) for name, share in found.items()}


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0

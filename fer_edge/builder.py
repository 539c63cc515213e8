"""Weights → bundle: export, calibrate, quantise, compare, write. The only module that calls all of these."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge._files import sha256_of, write_json
from fer_edge.backends import Backend, SessionOptions, choose_backend
from fer_edge.bundle import FP32_MODEL, RANGES, Bundle, Manifest, int8_model, open_bundle, write_bundle
from fer_edge.catalogue import CATALOGUE, SHIPPED, shipped_bundle
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, UsageError, lookup
from fer_edge.evaluation import session_logits
from fer_edge.explanation import require_attention
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.statistics import measurement_record, tool_versions
from fer_edge.synthetic_faces import generate_faces

if TYPE_CHECKING:
    from fer_edge.calibration.ranges import Ranges
    from fer_edge.calibration.report import Comparison
    from fer_edge.temperature import Temperature

REPORT = "report.json"
CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes
    ----------
    model : str
        A key of :data:`fer_edge.catalogue.CATALOGUE`.
    weights : str
        ``auto`` (what ships), a key of :data:`fer_edge.catalogue.SHIPPED`, ``random`` (timing only) or a file.
    precision : {"fp32", "int8"}
        What the bundle is for; an INT8 bundle holds the FP32 model too. An FP32 bundle holds ranges if
        there is ``calibration_data``, so that it can be quantised later without data.
    backend : str
        Where FP32 and INT8 are compared.
    calibration_data : Path or None
        Faces for the ranges; ``None`` takes ranges that ship, else generated images.
    calibration_split : str or None
        ``Usage`` of FER2013 for the ranges.
    calibration_images : int
        How many faces are used at most.
    comparison_images : int
        How many faces FP32 and INT8 are compared on where there is no ``eval_data``.
    method : str
        A key of :data:`fer_edge.calibration.methods.METHODS`.
    eval_data : Path or None
        Labelled faces for the comparison, and for the temperature that the bundle's confidences are divided by.
    eval_split : str or None
        ``Usage`` of FER2013 for the comparison.
    eval_labels : {"auto", "ferplus", "fer2013"}
        Whose labels of FER2013; ``auto`` takes FER+ where its file lies beside the CSV.
    output : Path or None
        Folder of the bundle; ``None`` is ``NAME-PRECISION.fer`` in the working directory.
    attention : bool
        Give the network's built-in attention as an output.
    canonical_shape, image_statistics : Path or None
        What EmotionalDAN needs beside its authors' checkpoint.
    """

    model: str = "conv-attention"
    weights: str = "auto"
    precision: str = "int8"
    backend: str = "auto"
    calibration_data: Path | None = None
    calibration_split: str | None = None
    calibration_images: int = 512
    comparison_images: int = 128
    method: str = "minmax"
    eval_data: Path | None = None
    eval_split: str | None = None
    eval_labels: str = "auto"
    output: Path | None = None
    attention: bool = False
    canonical_shape: Path | None = None
    image_statistics: Path | None = None


@dataclass(frozen=True)
class BuildReport:
    """What :func:`build` made; ``comparison`` is ``None`` for FP32."""

    bundle: Bundle
    calibration: str
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "bundle": str(self.bundle.path),
            "precision": self.bundle.manifest.precision,
            "timing_only": self.bundle.manifest.timing_only,
            "calibration": self.calibration,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
        }


Progress = Callable[[str, int, int], None]


def build(options: BuildOptions, on_progress: Progress = lambda stage, done, total: None) -> BuildReport:
    """Build a bundle.

    Parameters
    ----------
    options : BuildOptions
        What to build.
    on_progress : callable
        Called with (stage, done, total).

    Raises
    ------
    FerEdgeError
        If weights, data or backend are not what was asked for. Nothing is written then.
    """
    lookup(CATALOGUE, options.model, "model")
    if options.precision not in ("fp32", "int8"):
        raise UsageError(f"unknown precision {options.precision!r}: choose fp32 or int8")
    if options.comparison_images < 1:
        raise UsageError(f"comparison_images must be at least 1, found {options.comparison_images}")
    backend = choose_backend(options.backend)
    output = options.output or Path(f"{options.model}-{options.precision}.fer")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        manifest = _fp32_model(options, work, on_progress)
        names = [FP32_MODEL]
        comparison = None
        calibration = "none"
        ranges = None
        if options.precision == "int8" or options.calibration_data is not None:
            ranges, calibration = _ranges(options, manifest.spec, work, on_progress)
        if (work / RANGES).is_file():
            names.append(RANGES)
        metrics = dict(manifest.metrics)
        temperature = None
        if options.precision == "int8" and ranges is not None:
            names += _quantise(work, ranges)
            comparison = _compare(options, manifest.spec, backend, work, on_progress)
            metrics["comparison"] = {**comparison.to_dict(), "record": measurement_record()}
            write_json(work / REPORT, metrics["comparison"])
            names.append(REPORT)
            temperature = comparison.temperature
        elif options.eval_data is not None:
            temperature = _fp32_temperature(options, manifest.spec, backend, work, on_progress)
        if temperature is not None:
            metrics["temperature"] = temperature.to_dict()
        whole = dataclasses.replace(
            manifest,
            precision=options.precision,
            tools=tool_versions(),
            metrics=metrics,
            temperature=manifest.temperature if temperature is None else temperature.value,
        )
        bundle = write_bundle(output, whole, {name: work / name for name in names})
        return BuildReport(bundle, calibration, comparison)


def _fp32_model(options: BuildOptions, work: Path, on_progress: Progress) -> Manifest:
    """Put ``model.onnx`` (and ranges that ship) into ``work``; return the manifest so far."""
    shipped = options.model if options.weights == "auto" else options.weights
    if options.weights == "auto" or shipped in SHIPPED:
        bundle = open_bundle(shipped_bundle(shipped))
        if bundle.spec.network != options.model:
            raise UsageError(
                f"{shipped} is of the network {bundle.spec.network}: give --model {bundle.spec.network}"
            )
        if options.attention:
            require_attention(bundle)
        for name in (FP32_MODEL, RANGES):
            if name in bundle.manifest.files:
                shutil.copyfile(bundle.path / name, work / name)
        return bundle.manifest
    if importlib.util.find_spec("torch") is None:
        raise UsageError("exporting weights needs PyTorch: run pip install 'fer-edge[export]'")
    from fer_edge.export.checkpoints import AuthorInputs, load_any, random_network
    from fer_edge.export.onnx_model import FACES_TO_CHECK, export_onnx

    on_progress("exporting", 0, 1)
    origin: dict[str, str] = {}
    if options.weights == "random":
        trained = random_network(options.model)
    else:
        inputs = AuthorInputs(options.canonical_shape, options.image_statistics)
        trained = load_any(Path(options.weights), options.model, inputs)
        if "weights_sha256" not in trained.provenance:  # authors' files have been hashed while loading
            origin["weights_sha256"] = sha256_of(Path(options.weights))
    if options.attention:
        from fer_edge.export.explanation.attention import with_attention

        trained = with_attention(trained)
    faces = None
    if options.calibration_data is not None:
        faces = load_dataset(options.calibration_data, options.calibration_split).sample(FACES_TO_CHECK)
    report = export_onnx(trained, work / FP32_MODEL, faces)
    on_progress("exporting", 1, 1)
    return Manifest(
        spec=trained.spec,
        precision="fp32",
        provenance={"options": dict(trained.options), **origin, **trained.provenance},
        metrics={"export": dataclasses.asdict(report)},
        temperature=trained.temperature,
    )


def _ranges(options: BuildOptions, spec: ModelSpec, work: Path, on_progress: Progress) -> tuple[Ranges, str]:
    """Leave ``ranges.json`` in ``work``; return the ranges and where they come from."""
    from fer_edge.calibration.ranges import collect_ranges, load_ranges

    model = work / FP32_MODEL
    if options.calibration_data is None and (work / RANGES).is_file():
        ranges = load_ranges(work / RANGES, model)
        shipped = f"{ranges.method} on {ranges.images} faces of {ranges.data['name']}"
        return ranges, f"those that ship with the model ({shipped})"
    if options.calibration_data is None:
        faces = generated_faces(options.calibration_images)
        data = {"name": faces.name}
    else:
        dataset = load_dataset(options.calibration_data, options.calibration_split)
        faces = dataset.sample(options.calibration_images)
        data = {"name": faces.name, "fingerprint": faces.fingerprint()}
    ranges = collect_ranges(
        model,
        _batches(faces, spec),
        options.method,
        data,
        lambda done: on_progress("calibrating", done, len(faces)),
    )
    ranges.save(work / RANGES)
    return ranges, f"{ranges.method} on {ranges.images} faces of {faces.name}"


def _quantise(work: Path, ranges: Ranges) -> list[str]:
    """Write the Q/DQ model of every dialect into ``work``; return their names."""
    import onnx

    from fer_edge.calibration.qdq import DIALECTS, quantise

    proto = onnx.load(work / FP32_MODEL)
    for dialect in DIALECTS:
        path = work / int8_model(dialect)
        onnx.save(quantise(proto, ranges, dialect), path)
        onnx.checker.check_model(str(path), full_check=True)
    return [int8_model(dialect) for dialect in DIALECTS]


def _compare(
    options: BuildOptions, spec: ModelSpec, backend: Backend, work: Path, on_progress: Progress
) -> Comparison:
    from fer_edge.calibration.report import compare

    faces = _comparison_faces(options)
    return compare(
        work / FP32_MODEL,
        work / int8_model(backend.dialect),
        backend,
        spec,
        faces,
        on_faces=_counter(on_progress, f"comparing on {faces.name}", 2 * len(faces)),
    )


def _fp32_temperature(
    options: BuildOptions, spec: ModelSpec, backend: Backend, work: Path, on_progress: Progress
) -> Temperature | None:
    from fer_edge.evaluation import known_targets
    from fer_edge.temperature import measure_temperature

    faces = _comparison_faces(options)
    targets = known_targets(faces, spec)
    faces, targets = faces.subset(np.flatnonzero(targets >= 0)), targets[targets >= 0]
    session = backend.open(work / FP32_MODEL, SessionOptions())
    count = _counter(on_progress, f"fitting a temperature on {faces.name}", len(faces))
    logits = session_logits(session, faces, spec, on_faces=count)
    session.close()
    return measure_temperature(logits, targets)


def generated_faces(count: int) -> FaceDataset:
    """Return ``count`` generated face-like images without labels, as a data set."""
    crops = generate_faces(count)[..., ::-1].mean(axis=3).astype(np.uint8)
    return FaceDataset("generated images", crops, None, (), are_crops=True)


def _batches(faces: FaceDataset, spec: ModelSpec) -> Iterator[np.ndarray]:
    for start in range(0, len(faces), CALIBRATION_BATCH):
        stop = min(start + CALIBRATION_BATCH, len(faces))
        yield prepare_batch([faces[i] for i in range(start, stop)], spec)


def _comparison_faces(options: BuildOptions) -> FaceDataset:
    if options.eval_data is not None:
        faces = load_dataset(options.eval_data, options.eval_split, options.eval_labels)
        if not faces.are_crops:
            raise DataError(
                f"{options.eval_data} holds photographs, not face crops: give crops to --eval-data"
            )
        return faces
    if options.calibration_data is not None:
        return load_dataset(options.calibration_data, options.calibration_split).sample(
            options.comparison_images, seed=1
        )
    return generated_faces(options.comparison_images)


def _counter(on_progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def count(faces: int) -> None:
        nonlocal done
        done += faces
        on_progress(stage, done, total)

    return count

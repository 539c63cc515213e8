"""Self-test: compare the outputs of an opened session with the reference outputs of the same model.

Engines, drivers, versions and processors differ; a session with wrong outputs must not be used. Errors are relative:
the norm of the difference of the logits, each centred over the classes, divided by the norm of the reference.
Measured legitimate differences stay below half of each tolerance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fer_edge.backends.base import Backend, CropSession, Session, SessionOptions
from fer_edge.backends.self_test_data import SelfTestData, read_self_test
from fer_edge.bundle import SELF_TEST, Bundle, model_key
from fer_edge.errors import BundleError, SelfTestError
from fer_edge.preprocess import cut_rectangle, prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic import GENERATORS
from fer_edge.system.provenance import device_name, processor_features
from fer_edge.system.shell import pip_command

#: Largest relative error by arithmetic. A manifest may lower these, never raise them.
TOLERANCES: Mapping[str, float] = {
    "fp32": 1e-3,
    "tf32": 2e-2,  # FP32 with a 10-bit mantissa: ONNX Runtime's TensorRT provider
    "fp16": 1e-2,
    "int8": 5e-2,
    "dla": 0.15,
    "derived": 0.30,  # INT8 against FP32, for bundles without references
}
#: A slow network is tested on this many faces.
_MIN_FACES = 2
#: Time limit of a self-test, unless two faces take longer.
_BUDGET_S = 0.05
_DERIVED_FACES = 4
_MIN_NORM = 1e-6
#: Outputs other than logits → their rank, batch included; ``None`` for any.
_RANKS: Mapping[str, int | None] = {"attention": 3, "landmarks": 3, "embedding": None}


@dataclass(frozen=True)
class SelfTestReport:
    """Outcome of a self-test that passed or was skipped.

    Attributes
    ----------
    mode : str
        ``passed``; ``insensitive``, if saturated arithmetic hardly changes the outputs, so that the arithmetic probe
        decides; ``derived``, compared with FP32 in ONNX Runtime, for bundles without references; ``contract``, if
        only shapes, names and finiteness were checked; ``off``.
    faces : int
        Number of crops.
    error, tolerance : float or None
        Largest relative error found, and the largest allowed; ``None`` if nothing was compared.
    batches : tuple of int
        Batch sizes of the runs.
    seconds : float
        Duration; the self-test also warms up the session.
    device_crops : bool
        Whether crops made on the device were compared with those of the host, which happens with the first frame in
        device memory.
    """

    mode: str
    faces: int = 0
    error: float | None = None
    tolerance: float | None = None
    batches: tuple[int, ...] = ()
    seconds: float = 0.0
    device_crops: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "batches": list(self.batches)}


#: Report of a session that was opened with ``self_test=False``.
OFF = SelfTestReport("off")


def run_self_test(
    bundle: Bundle,
    backend: Backend,
    session: Session,
    precision: str,
    options: SessionOptions,
    reference: Backend,
) -> SelfTestReport:
    """Run a session on the self-test crops of its bundle and compare the outputs with the references.

    Parameters
    ----------
    bundle, backend, session, precision, options
        The session, and the arguments it was opened with.
    reference : Backend
        CPU ONNX Runtime, which computes the reference for bundles of format 1.

    Raises
    ------
    SelfTestError
        If the outputs differ from the reference.
    BundleError
        If the outputs do not fit the spec, or the reference cannot be read.
    """
    started = time.perf_counter()
    spec, record = bundle.spec, bundle.manifest.self_test
    key = model_key(precision, backend.dialect)
    data = _crops_of(bundle)
    logits, batches = _run(session, data.crops, spec, bundle)
    if bundle.manifest.timing_only:  # the outputs of random weights hold no signal to compare
        return SelfTestReport("contract", len(logits), None, None, batches, time.perf_counter() - started)
    mode, tolerance = "passed", _tolerance(backend, precision, options)
    expected = data.logits.get(key)
    if record is None and (precision, backend.name) == ("fp32", reference.name):
        return SelfTestReport("contract", len(logits), None, None, batches, time.perf_counter() - started)
    if record is None:
        mode, tolerance = "derived", TOLERANCES["derived"] if precision == "int8" else tolerance
        expected = _fp32_logits(bundle, reference, prepare_batch(list(data.crops[: len(logits)]), spec))
    elif expected is None:
        raise BundleError(
            f"{bundle.path} has no self-test of its model {key}. Fix: build the bundle again with fer-edge build"
        )
    else:
        tolerance = min(tolerance, record.tolerances.get(key, tolerance))
        if key in record.insensitive:
            mode = "insensitive"
    error = _compare(logits, expected[: len(logits)], tolerance, bundle, backend, key)
    return SelfTestReport(mode, len(logits), error, tolerance, batches, time.perf_counter() - started)


def compare_device_crops(
    session: CropSession,
    frame: Any,
    image: np.ndarray,
    rectangles: Sequence[tuple[int, int, int, int]],
    spec: ModelSpec,
    report: SelfTestReport,
) -> SelfTestReport:
    """Compare the outputs for crops made on the device with those for crops of the host, in the same session.

    Parameters
    ----------
    session : CropSession
        The session.
    frame, image : array
        The frame in device memory, and its copy ``[H, W, 3]`` uint8 BGR in host memory.
    rectangles : sequence of (left, top, right, bottom)
        Faces of the frame, one or more.
    report : SelfTestReport
        Report of the session, whose tolerance is used.

    Raises
    ------
    SelfTestError
        If the outputs differ.
    """
    few = list(rectangles[:_MIN_FACES])
    expected = session.run(prepare_batch([cut_rectangle(image, r) for r in few], spec))["logits"]
    if not np.isfinite(expected).all():  # inconclusive: the next frame is compared
        return report
    found = session.run_crops(frame, few, spec)["logits"]
    error = float(relative_errors(found, expected).max())
    tolerance = report.tolerance or TOLERANCES["int8"]
    if not error <= tolerance:  # NaN too
        raise SelfTestError(
            f"logits for crops made on the device differ from those for crops of the host: expected a relative error of at "
            f"most {tolerance:g}, found {error:.3g} on {len(few)} faces. Fix: use frames in host memory, or compile the "
            f"kernels again with FER_EDGE_KERNELS=1 {pip_command('install', '--force-reinstall', '.')}"
        )
    return replace(report, device_crops=True)


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return ``[N]`` float64: ‖difference‖ / ‖expected‖ of ``[N, K]`` logits, each centred over the classes."""
    a, b = (v.astype(np.float64) - v.mean(axis=1, keepdims=True, dtype=np.float64) for v in (found, expected))
    return np.asarray(np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), _MIN_NORM))


def changed_classes(found: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Return ``[N]`` bool: True if the class differs and the margin of the reference exceeds twice the tolerance."""
    centred = expected.astype(np.float64) - expected.mean(axis=1, keepdims=True, dtype=np.float64)
    best = np.sort(centred, axis=1)
    margin = (best[:, -1] - best[:, -2]) / np.maximum(np.linalg.norm(centred, axis=1), _MIN_NORM)
    return np.asarray((found.argmax(axis=1) != expected.argmax(axis=1)) & (margin > 2 * tolerance))


def _crops_of(bundle: Bundle) -> SelfTestData:
    if bundle.manifest.self_test is not None:
        return read_self_test(bundle.read(SELF_TEST), bundle.spec)
    return SelfTestData(GENERATORS["rendered"](_DERIVED_FACES, 0), {})


def _tolerance(backend: Backend, precision: str, options: SessionOptions) -> float:
    if options.dla_core is not None:
        return TOLERANCES["dla"]
    return TOLERANCES["tf32" if precision == "fp32" and backend.computes_tf32 else precision]


def _run(
    session: Session, crops: np.ndarray, spec: ModelSpec, bundle: Bundle
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Run two faces one by one, then as many more as the budget allows in one batch, up to the session's largest.

    The first run includes warm-up, so the budget is computed from the second.
    """
    begun = time.perf_counter()
    logits, batches = [], [1]
    seconds = 0.0
    for crop in crops[:_MIN_FACES]:
        started = time.perf_counter()
        logits.append(_checked(session.run(prepare_batch([crop], spec)), 1, spec, bundle))
        seconds = max(time.perf_counter() - started, 1e-6)
    left_s = _BUDGET_S - (time.perf_counter() - begun)
    more = crops[_MIN_FACES : _MIN_FACES + max(int(left_s / seconds), 0)]
    largest = session.largest_batch or 1
    if len(more) or largest > 1:
        rows = prepare_batch(list(more if len(more) else crops[:1]), spec)
        size = max(len(rows), largest)
        found = _checked(session.run(rows[np.arange(size) % len(rows)]), size, spec, bundle)
        logits.append(found[: len(more)])
        batches.append(size)
    return np.concatenate(logits), tuple(batches)


def _checked(outputs: Mapping[str, np.ndarray], rows: int, spec: ModelSpec, bundle: Bundle) -> np.ndarray:
    """Check names, shapes, types and finiteness of all outputs against the spec, and return the logits."""
    problem = _disagreement(outputs, rows, spec)
    if problem:
        raise BundleError(
            f"the model of {bundle.path} does not fit its spec: {problem}. Fix: build the bundle again with fer-edge build"
        )
    return outputs["logits"]


def _disagreement(outputs: Mapping[str, np.ndarray], rows: int, spec: ModelSpec) -> str:
    if set(outputs) != set(spec.outputs):
        return f"expected the outputs {', '.join(spec.outputs)}, found {', '.join(outputs)}"
    for name, values in outputs.items():
        if values.dtype != np.float32:
            return f"{name} must be float32, found {values.dtype}"
        rank = 2 if name == "logits" else _RANKS.get(name)
        if not values.shape or values.shape[0] != rows or (rank is not None and values.ndim != rank):
            wanted = "" if rank is None else f" and rank {rank}"
            return f"{name} must have {rows} rows{wanted}, found shape {list(values.shape)}"
        if not np.isfinite(values).all():
            return f"{name} must be finite, found NaN or infinity"
    shape, classes = outputs["logits"].shape, len(spec.class_names)
    if shape != (rows, classes):
        return f"expected logits of {classes} classes ({', '.join(spec.class_names)}), found {shape[1]}"
    return ""


def _fp32_logits(bundle: Bundle, reference: Backend, batch: np.ndarray) -> np.ndarray:
    session = reference.open(bundle.read_model("fp32", reference.dialect), SessionOptions())
    try:
        return _checked(session.run(batch), len(batch), bundle.spec, bundle)
    finally:
        session.close()


def _compare(
    found: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    bundle: Bundle,
    backend: Backend,
    key: str,
) -> float:
    """Return the largest error; raise if it exceeds the tolerance or a class with a clear margin changes."""
    error = float(relative_errors(found, expected).max())
    changed = int(changed_classes(found, expected, tolerance).sum())
    if error <= tolerance and not changed:
        return error
    raise SelfTestError(
        f"the outputs of {key} of {bundle.path} differ from its references: expected a relative error of at most "
        f"{tolerance:g}, found {error:.3g} on {len(found)} faces, {changed} of them with another "
        f"class (backend {backend.name} {backend.available().version}, {device_name()} with "
        f"{', '.join(processor_features()) or 'unknown features'}). Fix: choose another --backend or --precision, or build the bundle on this machine with "
        f"fer-edge build --model {bundle.spec.network} --{key.partition('.')[0]}"
    )

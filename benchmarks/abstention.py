"""Fit the limits and the confidence of fer_edge.quality, and measure risk and coverage on faces it was not fitted on.

    python benchmarks/abstention.py fer2013.csv.gz --photographs DIR [--cache DIR]

Fitted on the 1000 faces of FER2013 ``Training`` that the default network was not trained on, and degraded copies.
Reported on PublicTest with other severities, and on photographs that are degraded before the detector sees them. Half
of the weight of a set is that of its clean copies, the other half is shared by the degradations. Of turned and tilted
copies those count in which the detector finds the face, as the others get no label anyway. ``fer2013new.csv`` lies
beside the CSV. The limits are also applied to the other shipped networks, as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from degradations import FIT_GRID, TEST_GRID, Make, blurred, darkened, noisy, tilted
from renew_bundles import training_labels
from rich.console import Console

from fer_edge._utils.files import write_json
from fer_edge.backends import BACKENDS, Session, SessionOptions, load_session
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.commands.base import make_table, percent
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.models.catalogue import SHIPPED, find_bundle, shipped_bundle
from fer_edge.preprocess import crop_face
from fer_edge.probabilities import make_rule
from fer_edge.quality import Quality, QualityThresholds, estimate_confidence, measure_quality, reason
from fer_edge.quality.abstention import CONFIDENCE_OF_COVERAGE, WEIGHTS, confidence_terms
from fer_edge.quality.pose import estimate_pose
from fer_edge.results import Detection
from fer_edge.system.provenance import measurement_record

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "records" / "abstention.json"
CURVES = ROOT / "docs" / "images" / "risk-coverage.svg"
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
TEST_FACES = 1200
#: Networks that the confidence was not fitted on.
OTHERS = ("conv-attention-fer2013", "visual-attention")
OTHER_FACES = 300
#: Limit → degradations that it is fitted on.
FAMILIES = {
    "min_side_px": ("shrunk",),
    "min_luma": ("dark",),
    "max_luma": ("bright",),
    "max_noise": ("noise", "dark"),
    "min_sharpness": ("blur", "motion"),
}
MEASURES = {"min_side_px": "side_px"}
#: Copies per step of the fit of a limit.
_STEP = 200
#: Share of the clean copies that the default confidence refuses.
CLEAN_REFUSED = 0.01
_PHOTOGRAPHS: Mapping[str, Make] = {
    "clean": lambda image, rng: image,
    "dark 0.3": lambda image, rng: darkened(image, 0.3, rng),
    "dark 0.1": lambda image, rng: darkened(image, 0.1, rng),
    "noise 16": lambda image, rng: noisy(image, 16, rng),
    "blur 0.01": lambda image, rng: blurred(image, 0.01),
    "blur 0.02": lambda image, rng: blurred(image, 0.02),
    "tilted 30": lambda image, rng: tilted(image, 30),
}


@dataclass(frozen=True)
class Copies:
    """Faces of one degradation: ``[N, K]`` probabilities, N qualities, ``[N]`` whether the label is right."""

    probabilities: np.ndarray
    quality: list[Quality]
    right: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """``[N]``."""
        return np.array(
            [estimate_confidence(q, p) for q, p in zip(self.quality, self.probabilities, strict=True)]
        )


def opened(bundle: Bundle) -> Session:
    """Return a session of one thread."""
    return load_session(bundle, BACKENDS["onnxruntime"], "fp32", SessionOptions(threads=1))


def measure_crops(
    bundle: Bundle,
    faces: FaceDataset,
    count: int,
    grid: Mapping[str, Make],
    session: Session,
    detector: Detector,
    cache: Path,
) -> dict[str, Copies]:
    """Return the copies of ``count`` face crops, by degradation."""
    rule, targets = make_rule(bundle.manifest), known_targets(faces, bundle.spec)
    chosen = np.random.default_rng(0).permutation(len(faces))[:count]
    kept = dict(np.load(cache)) if cache.is_file() else {}
    found = {}
    poses = None
    for name, make in grid.items():
        crops = [make(faces[i], np.random.default_rng(int(i))) for i in chosen]
        if f"{name}/logits" not in kept:
            kept[f"{name}/logits"] = session_logits(session, crops, bundle.spec)
            moved = poses is None or name.startswith(("turned", "tilted"))
            kept[f"{name}/pose"] = np.array([_pose(c, detector) for c in crops]) if moved else poses
            np.savez(cache, **kept)
        pose = kept[f"{name}/pose"]
        poses = pose if poses is None else poses
        seen = np.isfinite(pose[:, 0]) | (not name.startswith(("turned", "tilted")))
        probabilities = rule(kept[f"{name}/logits"])
        quality = [_with_pose(crop, angles) for crop, angles in zip(crops, pose, strict=True)]
        found[name] = Copies(
            probabilities[seen],
            [q for q, is_seen in zip(quality, seen, strict=True) if is_seen],
            (probabilities.argmax(axis=1) == targets[chosen])[seen],
        )
    return found


def _pose(crop: np.ndarray, detector: Detector) -> tuple[float, float, float]:
    """Return the pose of the face in a crop, enlarged with a border for the detector; NaN if none is found."""
    framed = cv2.copyMakeBorder(crop, 12, 12, 12, 12, cv2.BORDER_REPLICATE)
    large = cv2.resize(framed, (216, 216), interpolation=cv2.INTER_CUBIC)
    found = detector.detect(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR))
    pose = estimate_pose(found[0].landmarks) if found else None
    return (float("nan"),) * 3 if pose is None else tuple(pose)


def _with_pose(crop: np.ndarray, angles: np.ndarray) -> Quality:
    quality = measure_quality(crop, Detection((0.0, 0.0, 48.0, 48.0), 1.0))
    if np.isnan(angles).any():
        return quality
    yaw, pitch, roll = map(float, angles)
    return replace(quality, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)


def measure_photographs(
    faces: FaceDataset, session: Session, detector: Detector, cache: Path
) -> dict[str, Copies]:
    """Return the largest face of each photograph, found in the degraded copy, by degradation."""
    bundle = open_bundle(find_bundle("default"))
    rule, targets = make_rule(bundle.manifest), known_targets(faces, bundle.spec)
    kept = dict(np.load(cache)) if cache.is_file() else {}
    result = {}
    for name, make in _PHOTOGRAPHS.items():
        if f"{name}/logits" not in kept:
            crops, quality, true = [], [], []
            for i in np.flatnonzero(targets >= 0):
                image = make(faces[i], np.random.default_rng(int(i)))
                found = detector.detect(image)
                crop = crop_face(image, found[0].box_xyxy, bundle.spec.crop) if found else None
                if crop is not None:
                    crops.append(crop)
                    quality.append(astuple(measure_quality(crop, found[0])))
                    true.append(targets[i])
            kept[f"{name}/logits"] = session_logits(session, crops, bundle.spec)
            kept[f"{name}/quality"], kept[f"{name}/true"] = np.array(quality, np.float64), np.array(true)
            np.savez(cache, **kept)
        probabilities = rule(kept[f"{name}/logits"])
        rows = [[None if np.isnan(v) else float(v) for v in row] for row in kept[f"{name}/quality"]]
        result[name] = Copies(
            probabilities,
            [Quality(*row) for row in rows],
            probabilities.argmax(axis=1) == kept[f"{name}/true"],
        )
    return result


def weights_of(copies: Mapping[str, Copies]) -> np.ndarray:
    """Return ``[N]`` weights of all copies, in order, with sum 1."""
    shares = [0.5 if name == "clean" else 0.5 / (len(copies) - 1) for name in copies]
    return np.concatenate(
        [
            np.full(len(c.right), share / len(c.right))
            for share, c in zip(shares, copies.values(), strict=True)
        ]
    )


def fit_weights(copies: Mapping[str, Copies]) -> dict[str, float]:
    """Return the weights of the logistic regression, by Newton's method with a weak ridge."""
    terms = np.array([list(confidence_terms(q, p).values()) for q, p in _faces(copies)])
    right = np.concatenate([c.right for c in copies.values()]).astype(np.float64)
    weight = weights_of(copies)
    found, ridge = np.zeros(terms.shape[1]), 1e-3 * np.eye(terms.shape[1])
    ridge[0, 0] = 0
    for _ in range(50):
        estimate = 1 / (1 + np.exp(-terms @ found))
        slope = terms.T @ (weight * (right - estimate)) - ridge @ found
        step = np.linalg.solve((terms.T * (weight * estimate * (1 - estimate))) @ terms + ridge, slope)
        found += step
        if np.abs(step).max() < 1e-10:
            break
    return {name: round(float(value), 3) for name, value in zip(WEIGHTS, found, strict=True)}


def _faces(copies: Mapping[str, Copies]) -> list[tuple[Quality, np.ndarray]]:
    return [pair for c in copies.values() for pair in zip(c.quality, c.probabilities, strict=True)]


def fit_limits(copies: Mapping[str, Copies]) -> dict[str, float]:
    """Return each limit of the quality: beyond it, at least half of the labels are wrong, also in the 200 nearest to it."""
    limits = {}
    for name, families in FAMILIES.items():
        measure = MEASURES.get(name, name[4:])
        rows = [
            (getattr(q, measure), right)
            for key, c in copies.items()
            if key.split()[0] in families
            for q, right in zip(c.quality, c.right, strict=True)
        ]
        values, right = np.array(rows).T
        order = np.argsort(values if name.startswith("min") else -values, kind="stable")
        values, right = values[order], right[order]
        ends = range(_STEP, len(right), _STEP)
        end = max(e for e in ends if right[e - _STEP : e].mean() <= 0.5 and right[:e].mean() <= 0.5)
        limits[name] = float(f"{values[end]:.3g}")
    return limits


def refused(copies: Copies, limits: QualityThresholds) -> np.ndarray:
    """Return ``[N]`` whether a face gets no label."""
    return np.array(
        [reason(q, p, limits) is not None for q, p in zip(copies.quality, copies.probabilities, strict=True)]
    )


def fit_confidence(copies: Mapping[str, Copies]) -> tuple[float, dict[float, float]]:
    """Return the default of ``min_confidence``, and that of each coverage with the default limits."""
    default = float(np.quantile(copies["clean"].confidence, CLEAN_REFUSED))
    limits = replace(QualityThresholds(), min_confidence=0.0)
    score = np.concatenate([np.where(refused(c, limits), -1, c.confidence) for c in copies.values()])
    order = np.argsort(-score)
    covered = np.cumsum(weights_of(copies)[order])
    return round(default, 2), {
        coverage: round(float(score[order][np.searchsorted(covered, coverage)]), 3)
        for coverage in CONFIDENCE_OF_COVERAGE
    }


def risk_at(score: np.ndarray, wrong: np.ndarray, weight: np.ndarray, coverages: Any) -> list[float]:
    """Return the share of wrong labels among the faces with the highest scores, at each coverage."""
    order = np.argsort(-score, kind="stable")
    covered, errors = np.cumsum(weight[order]), np.cumsum((weight * wrong)[order])
    at = np.searchsorted(covered, np.asarray(coverages) * covered[-1] * (1 - 1e-9)).clip(max=len(order) - 1)
    return [float(v) for v in errors[at] / covered[at]]


def scores(copies: Mapping[str, Copies], quality_weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the four scores that are compared, over all copies."""
    p = np.concatenate([c.probabilities for c in copies.values()])
    terms = [confidence_terms(q, row) for q, row in _faces(copies)]
    return {
        "maximum probability": p.max(axis=1),
        "entropy": (p * np.log(np.maximum(p, 1e-12))).sum(axis=1),
        "quality alone": np.array([sum(w * t[n] for n, w in quality_weights.items()) for t in terms]),
        "combined": np.concatenate([c.confidence for c in copies.values()]),
    }


def report(copies: Mapping[str, Copies]) -> dict[str, Any]:
    """Return risk at each coverage by score for the mixed set and its clean part, and the effect of the defaults."""
    alone = {name: WEIGHTS[name] for name in ("noise", "blur", "bright", "roll")}
    wrong = np.concatenate([~c.right for c in copies.values()])
    weight = weights_of(copies)
    clean = np.arange(len(wrong)) < len(copies["clean"].right)
    risks = {
        part: {
            name: dict(
                zip(
                    map(str, COVERAGES),
                    risk_at(s[among], wrong[among], weight[among], COVERAGES),
                    strict=True,
                )
            )
            for name, s in scores(copies, alone).items()
        }
        for part, among in (("mixed", clean | True), ("clean", clean))
    }
    defaults = {}
    for name, c in copies.items():
        out = refused(c, QualityThresholds())
        kept = c.right[~out]
        defaults[name] = {
            "faces": len(out),
            "error": float(1 - c.right.mean()),
            "refused": float(out.mean()),
            "error_of_labelled": float(1 - kept.mean()) if len(kept) else None,
        }
    return {"risk": risks, "defaults": defaults}


def draw(path: Path, copies: Mapping[str, Copies]) -> None:
    """Draw risk over coverage of the mixed set."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "fer-edge"
    alone = {name: WEIGHTS[name] for name in ("noise", "blur", "bright", "roll")}
    coverages = np.linspace(0.3, 1, 71)
    wrong = np.concatenate([~c.right for c in copies.values()])
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, score in scores(copies, alone).items():
        risks = np.array(risk_at(score, wrong, weights_of(copies), coverages))
        axes.plot(100 * coverages, 100 * risks, label=name)
    axes.set(xlabel="faces with a label, %", ylabel="wrong labels among them, %", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Fit, compare with the code, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="fer2013.csv[.gz]")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="folder for logits")
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    console = Console(width=140)
    bundle = open_bundle(find_bundle("default"))
    _, held_out = training_labels("conv-attention", args.csv)
    public, photographs = load_dataset(args.csv, "PublicTest", "ferplus"), load_dataset(args.photographs)
    with closing(create_detector("mtcnn")) as detector:
        with closing(opened(bundle)) as session:
            fitted_on = measure_crops(
                bundle, held_out, 1000, FIT_GRID, session, detector, args.cache / "held_out.npz"
            )
            tested = measure_crops(
                bundle, public, TEST_FACES, TEST_GRID, session, detector, args.cache / "public.npz"
            )
            wild = measure_photographs(photographs, session, detector, args.cache / "photographs.npz")
        others = {}
        for name in OTHERS:
            other = open_bundle(shipped_bundle(name))
            faces = load_dataset(args.csv, "PublicTest", SHIPPED[name].labels)
            with closing(opened(other)) as session:
                others[f"{name}, {faces.name}"] = measure_crops(
                    other, faces, OTHER_FACES, TEST_GRID, session, detector, args.cache / f"{name}.npz"
                )
    confidence, coverage = fit_confidence(fitted_on)
    fit = {
        "weights": fit_weights(fitted_on),
        "limits": {**fit_limits(fitted_on), "min_confidence": confidence},
        "confidence_of_coverage": {str(c): value for c, value in coverage.items()},
    }
    in_code = {
        "weights": WEIGHTS,
        "limits": {name: v for name, v in asdict(QualityThresholds()).items() if name != "max_yaw_deg"},
        "confidence_of_coverage": {str(c): value for c, value in CONFIDENCE_OF_COVERAGE.items()},
    }
    for name, value in fit.items():
        if value != in_code[name]:
            console.print(
                f"[bold]fer_edge/quality/abstention.py has other {name}:[/]\nfitted  {value}\nin code {in_code[name]}"
            )
    data = {
        "FER+ Training, held out": report(fitted_on),
        "FER+ PublicTest": report(tested),
        "faces_in_context, largest face by mtcnn": report(wild),
        **{name: report(copies) for name, copies in others.items()},
    }
    for name, found in data.items():
        for part, by_score in found["risk"].items():
            rows = [(score, *(percent(v) for v in risks.values())) for score, risks in by_score.items()]
            columns = ("score", *(f"{c:.0%}" for c in COVERAGES))
            console.print(make_table(f"{name}, {part}: wrong labels at coverage", columns, rows))
        rows = [
            (
                kind,
                d["faces"],
                *("–" if d[f] is None else percent(d[f]) for f in ("error", "refused", "error_of_labelled")),
            )
            for kind, d in found["defaults"].items()
        ]
        console.print(
            make_table(
                f"{name}, default limits", ("copies", "faces", "wrong", "refused", "wrong of the rest"), rows
            )
        )
    draw(CURVES, tested)
    write_json(args.json, {"record": measurement_record(), "fit": fit, "data": data})


if __name__ == "__main__":
    main()

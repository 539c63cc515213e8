"""Split the faces of a build before anything is measured: for calibration, for the measurements of ``auto``,
and for the comparison of INT8 with FP32. The parts share no face and no copy of a face.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fer_edge._utils.progress import Progress
from fer_edge.builder.faces import Sources, generated_faces
from fer_edge.builder.reader import Account, FaceReader, HashedFaces
from fer_edge.datasets import FaceDataset
from fer_edge.datasets.duplicates import copies_of, hash_faces, repeats
from fer_edge.errors import CalibrationError, DataError, without_fix
from fer_edge.spec import CropRule

#: Generated faces are added to a measured part with fewer distinct faces.
MIN_MEASURED = 16
#: With fewer distinct faces the ranges depend on the individual pictures.
FEW_CALIBRATING = 100
#: Seeds of the generated faces.
_SEEDS = {"calibrating": 0, "comparing": 1, "held_out": 2}


@dataclass(frozen=True)
class Counts:
    """Number of faces in each part; 0 for a part that the build does not need."""

    calibrating: int
    held_out: int
    comparing: int


@dataclass(frozen=True)
class Split:
    """The parts, and their entries in the report.

    Attributes
    ----------
    calibrating, held_out, comparing : FaceDataset or None
        ``None`` if the build does not need the part.
    summary : mapping
        Plain JSON types. Part → ``data``, ``faces``, ``distinct``, ``generated``, ``completed`` (with generated
        faces), ``sha256``; ``pictures``: data set → :class:`fer_edge.builder.reader.Account`; ``overlap``: faces of
        one part with a copy in another, ``None`` if it is unknown, as for shipped ranges with ``--eval-data``;
        ``skipped`` and ``left_out``: data set → bad rows that were skipped (``skip_bad``), and counts of rows that
        the rules of the data set exclude.
    warnings : tuple of str
        Limitations of the figures.
    """

    calibrating: FaceDataset | None
    held_out: FaceDataset | None
    comparing: FaceDataset | None
    summary: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Faces of one purpose; ``completed`` is true if generated faces were added to too few real ones."""

    hashed: HashedFaces
    generated: int
    distinct: int
    completed: bool = False

    @property
    def faces(self) -> FaceDataset:
        return self.hashed.faces

    def to_dict(self) -> dict[str, Any]:
        return {
            "data": self.faces.name,
            "faces": len(self.faces),
            "distinct": self.distinct,
            "generated": self.generated,
            "completed": self.completed,
            "sha256": self.hashed.hashes.sha256,
        }


def split_faces(
    sources: Sources,
    counts: Counts,
    rule: CropRule,
    on_progress: Progress = lambda stage, done, total: None,
    shipped_ranges: str | None = None,
) -> Split:
    """Read faces, leave copies out, and split the others.

    All faces of the evaluation data are compared. Without evaluation data the calibration data is split by
    ``counts``; with few faces, at least a quarter is compared and an eighth held out. Measured parts of fewer than 16
    distinct faces are filled up with generated faces.

    Parameters
    ----------
    sources : Sources
        The data sets; generated faces replace a missing one.
    counts : Counts
        Largest number of faces in each part.
    rule : CropRule
        Rule for cropping faces from photographs.
    on_progress : callable
        Called with (stage, done, total).
    shipped_ranges : str, optional
        Name of the data that the shipped ranges were measured on, if the build uses them.

    Raises
    ------
    DataError
        If pictures have hardly any contrast, no face is found, or no face is left to calibrate on.
    """
    read: dict[str, HashedFaces] = {}
    accounts: dict[str, Account] = {}
    with FaceReader(rule, on_progress) as reader:
        if counts.comparing and sources.evaluation is not None:
            read["comparing"], accounts[sources.evaluation.name] = reader.read_all(sources.evaluation)
        elif counts.comparing and sources.calibration is None:
            made = generated_faces(
                max(counts.comparing, MIN_MEASURED), sources.generator, _SEEDS["comparing"]
            )
            read["comparing"], _ = reader.read_all(made)
        if counts.calibrating:
            drawn, account = _draw(reader, sources, counts, read.get("comparing"))
            read |= _shared_out(drawn, counts, "comparing" in read)
            if sources.calibration is not None:
                accounts[_named_apart(sources.calibration.name, accounts)] = account
    parts: dict[str, _Part] = {}
    for name in tuple(read):
        parts[name] = _part(name, read, sources)
        read[name] = parts[name].hashed
    overlap = _overlap(read)
    if overlap:
        raise CalibrationError(
            f"expected no face in two parts of the split, found {overlap}. "
            "Fix: report this with the output of fer-edge doctor"
        )
    given = [d for d in (sources.evaluation, sources.calibration) if d is not None]
    warnings = _warnings(parts, accounts) + _skipped(given)
    unknown = False
    if shipped_ranges is not None and sources.evaluation is not None:
        unknown = True
        warnings.append(
            f"the ranges ship with the model and were measured on {shipped_ranges}, which may contain faces of "
            f"{sources.evaluation.name}. Fix: give --calibration-data to exclude that"
        )
    return Split(
        calibrating=parts["calibrating"].faces if "calibrating" in parts else None,
        held_out=parts["held_out"].faces if "held_out" in parts else None,
        comparing=parts["comparing"].faces if "comparing" in parts else None,
        summary={
            **{name: part.to_dict() for name, part in parts.items()},
            "pictures": {name: dataclasses.asdict(account) for name, account in accounts.items()},
            "overlap": None if unknown else overlap,
            "skipped": {d.name: {"count": d.skipped.count, "first": list(d.skipped.first)} for d in given},
            "left_out": {d.name: dict(d.left_out) for d in given},
        },
        warnings=tuple(warnings),
    )


def _draw(
    reader: FaceReader, sources: Sources, counts: Counts, comparing: HashedFaces | None
) -> tuple[HashedFaces, Account]:
    """Return distinct faces in a reproducible order, without copies of the compared faces."""
    count = counts.calibrating + counts.held_out + (counts.comparing if comparing is None else 0)
    if sources.calibration is None:
        dataset = generated_faces(count, sources.generator, _SEEDS["calibrating"])
        order = np.arange(count)  # fewer are the first of more
    else:
        dataset = sources.calibration
        order = np.random.default_rng(0).permutation(len(dataset))
    drawn, account = reader.draw(dataset, order, count, None if comparing is None else comparing.hashes)
    if comparing is not None and not len(drawn):
        raise DataError(
            f"no face of {dataset.name} is left to calibrate on, since all {account.in_comparison} are faces of the "
            f"comparison data {comparing.faces.name} or copies of them. Fix: give other faces to --calibration-data, or "
            "leave --eval-data out to compare on a part of the calibration data"
        )
    return drawn, account


def _shared_out(drawn: HashedFaces, counts: Counts, compared: bool) -> dict[str, HashedFaces]:
    """Split distinct faces for calibration, for holding out and, unless ``compared`` is true, for the comparison."""
    total = len(drawn)
    comparing = held_out = 0
    if not compared:
        spare = total - counts.calibrating - counts.held_out
        comparing = min(counts.comparing, max(total // 4, spare))
    if counts.held_out:
        spare = total - counts.calibrating - comparing
        held_out = min(counts.held_out, max(total // 8, spare))
    calibrating = min(counts.calibrating, total - comparing - held_out)
    ends = np.cumsum([calibrating, held_out, comparing])
    parts = {"calibrating": drawn.part(0, ends[0])}
    if counts.held_out:
        parts["held_out"] = drawn.part(ends[0], ends[1])
    if counts.comparing and not compared:
        parts["comparing"] = drawn.part(ends[1], ends[2])
    return parts


def _part(name: str, read: Mapping[str, HashedFaces], sources: Sources) -> _Part:
    """Count the distinct faces of a part, and fill up a measured part that has too few."""
    hashed = read[name]
    distinct = int((~hashed.repeats()).sum())
    real = (
        sources.evaluation if name == "comparing" and sources.evaluation is not None else sources.calibration
    )
    if real is None:
        return _Part(hashed, len(hashed), distinct)
    missing = MIN_MEASURED - distinct
    if name == "calibrating" or missing <= 0:
        return _Part(hashed, 0, distinct)
    made = generated_faces(2 * MIN_MEASURED, sources.generator, _SEEDS[name])
    hashes = hash_faces(made)
    fine = ~repeats(hashes, shifted=False)
    for other in read.values():
        fine &= ~copies_of(hashes, other.hashes, shifted=True)
    chosen = np.flatnonzero(fine)[:missing]
    added = made.subset(chosen)
    named = (
        f"{len(hashed)} faces of {hashed.faces.name} and {len(added)} {added.name}"
        if distinct
        else f"{len(added)} {added.name}"
    )
    return _Part(
        HashedFaces(hashed.faces.followed_by(added, named), hashed.hashes.followed_by(hashes.subset(chosen))),
        len(added),
        distinct + len(added),
        completed=True,
    )


def _overlap(read: Mapping[str, HashedFaces]) -> int:
    """Return the number of faces with a copy in another part, by their hashes."""
    return sum(
        int(copies_of(a.hashes, b.hashes, shifted=False).sum()) for a, b in combinations(read.values(), 2)
    )


def _named_apart(name: str, taken: Mapping[str, object]) -> str:
    return f"{name}, for the ranges" if name in taken else name


def _skipped(given: Sequence[FaceDataset]) -> list[str]:
    found = {d.name: d.skipped for d in given if d.skipped.count}
    return [
        f"{skipped.count} rows or pictures of {name} cannot be read and are left out, first "
        f"{without_fix(skipped.first[0])}"
        for name, skipped in found.items()
    ]


def _warnings(parts: Mapping[str, _Part], accounts: Mapping[str, Account]) -> list[str]:
    found = []
    if "calibrating" in parts and (distinct := parts["calibrating"].distinct) < FEW_CALIBRATING:
        found.append(
            f"expected at least {FEW_CALIBRATING} distinct faces of {parts['calibrating'].faces.name} to calibrate on, found "
            f"{distinct}, so INT8 may fail on other faces. Fix: give more faces to --calibration-data"
        )
    for name, purpose in (("held_out", "a calibration is chosen on"), ("comparing", "INT8 is compared on")):
        if name in parts and parts[name].completed:
            found.append(
                f"{purpose} {parts[name].faces.name}: expected at least {MIN_MEASURED} distinct faces of your own"
            )
    for name, account in accounts.items():
        for count, problem in (
            (account.no_face, "no face is found in"),
            (account.flat, "there is hardly any contrast in"),
        ):
            if count:
                found.append(f"{problem} {count} of {account.read} pictures of {name}: they are left out")
    return found

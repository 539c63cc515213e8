"""The INT8 part of ``report.json`` and ``report.html``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fer_edge.calibration.algorithms.mixed_precision import Step
from fer_edge.calibration.algorithms.search import Candidate
from fer_edge.calibration.comparison.bounds import BoundResult
from fer_edge.calibration.int8 import Int8Attempt, Int8Options, Int8Result, outcome_of


def report_of_refused(
    refused: Int8Attempt, candidates: tuple[Candidate, ...], options: Int8Options, reason: str
) -> dict[str, Any]:
    """Return the figures of INT8 that missed its bounds, as plain JSON types; ``gate`` holds the reason.

    Parameters are as in :func:`report_of`.
    """
    value = report_of(refused.int8, candidates, options)
    value["gate"] = {**value["gate"], "passed": False, "reason": reason}
    if refused.steps:
        results = options.judge(outcome_of(refused.int8.comparison))
        value["mixed_precision"] = _mixed_precision(results, refused.steps)
    return value


def report_of(int8: Int8Result, candidates: tuple[Candidate, ...], options: Int8Options) -> dict[str, Any]:
    """Return the measurements of INT8 as plain JSON types.

    Parameters
    ----------
    int8 : Int8Result
        The model and its figures.
    candidates : tuple of Candidate
        Measured calibrations; empty if the method was given.
    options : Int8Options
        Options for judging INT8.
    """
    left = {name for row in int8.placement for name in row.layers}
    results = options.judge(outcome_of(int8.comparison))
    value: dict[str, Any] = {
        "gate": {
            "passed": all(result.passed for result in results),
            "bounds": [dataclasses.asdict(result) for result in results],
        },
        "comparison": int8.comparison.to_dict(),
        "simulated": {name: fidelity.to_dict() for name, fidelity in int8.simulated.items()},
        "placement": [dataclasses.asdict(row) for row in int8.placement],
        "calibration": {
            "method": int8.ranges.method,
            "images": int8.ranges.images,
            "data": int8.ranges.data["name"],
            "integer multiply-adds": f"{100 * int8.integer_share:.2f} %",
        },
    }
    if candidates:
        value["candidates"] = [dataclasses.asdict(candidate) for candidate in candidates]
    if int8.sensitivity:
        value["sensitivity"] = [
            {**dataclasses.asdict(layer), "precision": "float" if layer.layer in left else "int8"}
            for layer in int8.sensitivity
        ]
    if int8.mixed is not None:
        found = int8.mixed.found
        times = int8.mixed.int8_latency.p50_ms, int8.mixed.mixed_latency.p50_ms
        value["mixed_precision"] = _mixed_precision(results, found.steps, found.float_layers, times)
    return value


def _mixed_precision(
    results: Sequence[BoundResult],
    steps: Sequence[Step],
    float_layers: Sequence[str] = (),
    p50_ms: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """Return the steps of the search; ``p50_ms`` are the latencies of INT8 and of mixed precision."""
    return {
        "bound": "; ".join(f"{result.name} {result.bound}" for result in results),
        "float_layers": list(float_layers),
        "steps": [{**dataclasses.asdict(step), "float_layers": len(step.float_layers)} for step in steps],
        "int8_p50_ms": p50_ms[0],
        "mixed_p50_ms": p50_ms[1],
    }

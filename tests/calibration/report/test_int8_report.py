"""The report of INT8 holds the measured figures."""

from __future__ import annotations

import json
from pathlib import Path

from fer_edge.calibration.algorithms.mixed_precision import Step
from fer_edge.calibration.algorithms.search import Candidate
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.calibration.int8 import COLLAPSED_COSINE, Int8Attempt, Int8Options, Int8Result
from fer_edge.calibration.report.report import report_of, report_of_refused


def test_the_report_of_a_network_all_in_integers(plain: tuple[Int8Result, Path]) -> None:
    int8, _ = plain
    tried = (Candidate("minmax", 0.9, 0.99, 20.0), Candidate("entropy", 1.0, 0.999, None, chosen=True))
    report = json.loads(json.dumps(report_of(int8, tried, Int8Options()), allow_nan=False))
    assert report["calibration"]["integer multiply-adds"] == f"{100 * int8.integer_share:.2f} %"
    (bound,) = report["gate"]["bounds"]
    assert bound["name"] == "cosine of the centred logits, at least"
    assert (bound["bound"], bound["measured"]) == (COLLAPSED_COSINE, int8.comparison.logit_cosine)
    assert report["gate"]["passed"]
    assert [(c["name"], c["snr_db"], c["chosen"]) for c in report["candidates"]] == [
        ("minmax", 20.0, False),
        ("entropy", None, True),
    ]
    assert not {"mixed_precision", "sensitivity"} & report.keys()
    assert "candidates" not in report_of(int8, (), Int8Options())


def test_the_report_of_mixed_precision(mixed: tuple[Int8Result, Path, Bounds]) -> None:
    int8, _, bounds = mixed
    assert int8.mixed is not None
    report = json.loads(json.dumps(report_of(int8, (), Int8Options(bounds))))
    section = report["mixed_precision"]
    assert section["float_layers"] == list(int8.mixed.found.float_layers)
    assert section["bound"].startswith("cosine of the centred logits, at least")
    assert section["int8_p50_ms"] > 0
    assert section["mixed_p50_ms"] > 0
    first, *_, last = section["steps"]
    assert (first["float_layers"], first["passed"]) == (0, False)
    assert {"drop_pp", "logit_cosine"} <= last.keys()
    assert any(
        step["passed"] and step["float_layers"] == len(section["float_layers"]) for step in section["steps"]
    )
    precisions = {row["layer"]: row["precision"] for row in report["sensitivity"]}
    assert {layer for layer, precision in precisions.items() if precision == "float"} == set(
        section["float_layers"]
    )
    (row,) = (row for row in report["placement"] if row["rule"] == "mixed precision")
    assert row["layers"] == sorted(section["float_layers"])


def test_the_report_of_a_refused_model_holds_every_step(plain: tuple[Int8Result, Path]) -> None:
    int8, _ = plain
    tried = (Candidate("minmax", 0.9, 0.99, 20.0, chosen=True),)
    steps = (Step((), 1.5, 0.98, 0.9, False), Step(("a", "b"), 1.0, 0.985, 0.95, False))
    refused = Int8Attempt(int8, steps)
    report = json.loads(
        json.dumps(
            report_of_refused(refused, tried, Int8Options(Bounds(min_cosine=0.9999999)), "too far"),
            allow_nan=False,
        )
    )
    assert (report["gate"]["passed"], report["gate"]["reason"]) == (False, "too far")
    assert [bound["passed"] for bound in report["gate"]["bounds"]] == [False]
    assert [step["float_layers"] for step in report["mixed_precision"]["steps"]] == [0, 2]
    assert [step["drop_pp"] for step in report["mixed_precision"]["steps"]] == [1.5, 1.0]
    assert report["candidates"][0]["name"] == "minmax"
    assert report["comparison"]["logit_cosine"] == int8.comparison.logit_cosine
    # Another dialect may collapse while the bounds of this one hold.
    held = report_of_refused(Int8Attempt(int8), (), Int8Options(), "the tensorrt model has collapsed")
    assert not held["gate"]["passed"]
    assert "mixed_precision" not in held

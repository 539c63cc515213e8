"""A refused build writes a report, and its error names the next commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_options import parsed

from fer_edge.builder import BuildOptions, build
from fer_edge.builder.plan import make_plan
from fer_edge.builder.report import forget_refusal, next_steps, refuse, refused_folder
from fer_edge.calibration.algorithms.mixed_precision import Step
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.cli import main
from fer_edge.errors import GateError

STEPS = (
    Step((), 4.236, 0.98, 0.95, False),
    Step(("a",), 2.001, 0.991239, 0.97345, False),
    Step(("a", "b"), 3.0, 0.9905, 0.96, False),
)


@pytest.mark.slow
def test_the_report_says_what_was_tried(tmp_path: Path) -> None:
    output = tmp_path / "x.fer"
    options = BuildOptions(
        backend="onnxruntime", min_cosine=1 - 1e-12, sensitivity_images=1, comparison_images=1, output=output
    )
    (tmp_path / "x.fer.refused").mkdir()
    (tmp_path / "x.fer.refused" / "report.json").write_text("stale")
    with pytest.raises(
        GateError, match=r"The measurements are in .*x\.fer\.refused/report\.html\. Fix: run "
    ) as raised:
        build(options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.fer.refused"]
    assert {path.name for path in refused_folder(output).iterdir()} == {"report.json", "report.html"}
    report = json.loads((refused_folder(output) / "report.json").read_text())
    assert not report["gate"]["passed"]
    assert "INT8 cannot meet a logit cosine" in report["gate"]["reason"]
    assert report["gate"]["holds_for"]["backend"] == "onnxruntime"
    assert report["gate"]["holds_for"]["faces"] == "16 faces of generated images (rendered)"
    assert report["comparison"]["faces"] == 16
    assert len(report["mixed_precision"]["steps"]) > 2
    assert not any(step["passed"] for step in report["mixed_precision"]["steps"])
    assert len(report["sensitivity"]) > 5
    assert report["data"]["overlap"] == 0
    page = (refused_folder(output) / "report.html").read_text()
    assert "✕ Refused" in page
    for step in report["next_steps"]:
        assert step["command"] in str(raised.value)
        make_plan(parsed(step["command"]))  # is a valid build
    best = max(step["logit_cosine"] for step in report["mixed_precision"]["steps"])
    again = parsed(report["next_steps"][0]["command"])
    assert 0 <= best - again.min_cosine < 1e-4  # the reached value is enough
    built = build(again)
    assert built.bundle.path == output
    assert [path.name for path in tmp_path.iterdir()] == [
        "x.fer"
    ]  # the report of the refused build is removed


def test_what_collapses_may_leave_layers_in_floating_point() -> None:
    options = BuildOptions(output=Path("demo/x.fer"))
    commands = [command for command, _ in next_steps(options)]
    assert commands == [
        "fer-edge build --int8 --calibration-data PATH --output demo/x.fer",
        "fer-edge build --int8 --min-cosine 0.99 --output demo/x.fer",
        "fer-edge build --fp32 --output demo/x.fer",
    ]


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(weights="random", generator="noise", method="mse"),
        BuildOptions(min_cosine=0.999, max_drop=0.1, min_agreement=0.99, sensitivity=True),
        BuildOptions(calibration_data=Path("a"), calibration_split="Training", eval_data=Path("b")),
        BuildOptions(precision="fp16", compute_capabilities=("8.6",)),
    ],
)
@pytest.mark.parametrize("tried", [(), STEPS])
def test_every_command_is_accepted(options: BuildOptions, tried: tuple[Step, ...]) -> None:
    steps = next_steps(options, tried)
    assert len(steps) >= 2
    for command, _ in steps:
        assert parsed(command) != options
        make_plan(parsed(command))


def test_bounds_that_were_set_become_what_the_nearest_model_reached() -> None:
    options = BuildOptions(min_cosine=0.999, max_drop=0.1, min_agreement=0.99)
    command, purpose = next_steps(options, STEPS)[0]
    found = parsed(command)
    assert (found.max_drop, found.min_cosine, found.min_agreement) == (2.01, 0.99123, 0.9734)
    assert purpose == "set the bounds to the values that were reached"
    only = parsed(next_steps(BuildOptions(min_cosine=0.999), STEPS)[0][0])
    assert (only.max_drop, only.min_agreement) == (None, None)


def test_a_folder_of_something_else_stays(tmp_path: Path) -> None:
    mine = tmp_path / "x.fer.refused"
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    error = refuse(BuildOptions(), tmp_path / "x.fer", GateError("too far"), {})
    assert re.search(
        r"^too far\. .* holds something else, so no report .* Fix: run fer-edge build ", str(error)
    )
    forget_refusal(tmp_path / "x.fer")
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


def test_a_report_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refuse(BuildOptions(), tmp_path / "file" / "x.fer", GateError("too far"), {})
    assert re.search(r"^too far\. No report could be written .* Fix: run fer-edge build ", str(error))


@pytest.mark.slow
def test_demo_advises_whole_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulates a processor that computes INT8 wrongly by a bound that INT8 cannot meet."""
    monkeypatch.setattr("fer_edge.calibration.int8.COLLAPSED_COSINE", 0.9999999)
    monkeypatch.setattr("fer_edge.calibration.int8.COLLAPSED", Bounds(min_cosine=0.9999999))
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 1
    message = capsys.readouterr().err
    assert message.count("Fix: ") == 1
    advice = message.split("Fix: run ")[1]
    commands = re.findall(r"(fer-edge build .*?) \(", advice)
    assert len(commands) == 3
    for command in commands:
        options = parsed(command)
        make_plan(options)
        assert options.output == tmp_path / "demo" / "conv-attention-int8.fer"
    assert (tmp_path / "demo" / "conv-attention-int8.fer.refused" / "report.json").is_file()
    assert not re.search(r"--(?!int8|fp32|output|overwrite|min-cosine|calibration-data)", advice)

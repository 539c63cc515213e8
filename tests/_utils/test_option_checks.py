"""Options refuse invalid values: NaN, infinity, huge and negative numbers, and other types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge._utils.checks import is_number, is_text, require_number, require_whole
from fer_edge.backends.base import SessionOptions
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.plan import make_plan
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.calibration.int8 import Int8Options
from fer_edge.datasets import leave_subjects_out, load_dataset, subject_folds
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.detection.base import DetectorOptions
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.run.options import RunnerOptions
from fer_edge.errors import UsageError, lookup
from fer_edge.export.training.data.batches import DataOptions
from fer_edge.export.training.loop import TrainOptions
from fer_edge.runtime.options import RuntimeOptions

NOT_WHOLE = [
    float("nan"),
    float("inf"),
    -1,
    10**30,
    1.5,
    "3",
    True,
    [1],
    (1,),
    {},
    b"1",
    1j,
    np.array([1, 2]),
]
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf"), -1e9, 1e300, 10**400, "0.5", True, [0.5], {}, 1j]
NOT_FLAGS = [0, 1, "yes", [], float("nan")]
NOT_PATHS = [3, True, [], float("nan"), b"x"]
NOT_NAMES = [3, True, [], {}, float("nan"), ("a",)]

DATA = FaceDataset("none", (), None, (), are_crops=True)


def build(**changes: Any) -> None:
    make_plan(BuildOptions(**changes))


def load(**changes: Any) -> FaceDataset:
    return load_dataset(**{"path": "/nonexistent", **changes})


def data(**changes: Any) -> DataOptions:
    return DataOptions(**{"path": Path(), "cache": Path(), **changes})


#: What takes options → option → values that it must refuse. What is left out is None or has a type of its own.
REFUSED: dict[Callable[..., Any], dict[str, list[Any]]] = {
    SessionOptions: {
        "threads": [*NOT_WHOLE, 0, 1025],
        "precision": [*NOT_NAMES, "fp8"],
        "dla_core": NOT_WHOLE,
        "gpu_fallback": NOT_FLAGS,
        "max_batch": [*NOT_WHOLE, 0],
    },
    RuntimeOptions: {
        "min_probability": [*NOT_NUMBERS, None],
        "allow_random": NOT_FLAGS,
        "attention": NOT_FLAGS,
        "self_test": NOT_FLAGS,
        "tune": NOT_FLAGS,
    },
    DetectorOptions: {
        "min_face_px": [*(v for v in NOT_WHOLE if v is not None), 0],
        "min_score": [*NOT_NUMBERS, 1.01, -0.01, 35],
        "turned_looks": [*NOT_NUMBERS, None, 2.01, -0.01],
        "model": NOT_PATHS,
        "backend": [*NOT_NAMES, None],
        "threads": [*NOT_WHOLE, 0],
    },
    RunnerOptions: {
        "buckets": [(), [1, 2], 4, "12", (1, 1), (2, 1), (0,), (True,), (1.0,), ("1",), (float("nan"),)],
        "cuda_graphs": [*NOT_NAMES, None, "on"],
        "check_finite": NOT_FLAGS,
        "watchdog_s": [*NOT_NUMBERS, 0, None],
    },
    EngineOptions: {
        "flavour": [*NOT_NAMES, None],
        "precision": [*NOT_NAMES, None],
        "min_batch": [*NOT_WHOLE, 0, None],
        "opt_batch": [*NOT_WHOLE, 0, None],
        "max_batch": [*NOT_WHOLE, 0, None],
        "compute_capability": [
            8.6,
            "8.6",
            (8,),
            (8, 6, 1),
            [8, 6],
            (True, 6),
            (8.0, 6),
            (-8, 6),
            (8, 10**30),
        ],
        "workspace_bytes": NOT_WHOLE,
        "workspace_share": [*NOT_NUMBERS, 0, None],
        "timing_cache": NOT_PATHS,
        "builder_level": NOT_WHOLE,
        "gpu_fallback": NOT_FLAGS,
        "plugin": [*NOT_NAMES, None],
        "time_limit_s": [*NOT_NUMBERS, 0, None],
        "log": NOT_PATHS,
    },
    Bounds: {
        "max_drop_pp": [*NOT_NUMBERS, 100.1],
        "min_cosine": [*NOT_NUMBERS, 1.0, 1.1],
        "min_agreement": [*NOT_NUMBERS, 1.1],
    },
    Int8Options: {
        "timing_only": NOT_FLAGS,
        "sensitivity": NOT_FLAGS,
        "sensitivity_images": [*NOT_WHOLE, 0, None],
    },
    build: {
        "model": [*NOT_NAMES, None],
        "precision": [*NOT_NAMES, None],
        "plugin": [*NOT_NAMES, None],
        "generator": NOT_NAMES,
        "method": [*NOT_NAMES, None],
        "weights_sha256": ["", "ab", "g" * 64, 64, b"a" * 64],
        "calibration_images": [*NOT_WHOLE, 0],
        "comparison_images": [*NOT_WHOLE, 0],
        "sensitivity_images": [*NOT_WHOLE, 0, None],
        "max_drop": NOT_NUMBERS,
        "min_cosine": NOT_NUMBERS,
        "min_agreement": NOT_NUMBERS,
        "sensitivity": NOT_FLAGS,
        "attention": NOT_FLAGS,
        "calibration_data": NOT_PATHS,
        "eval_data": NOT_PATHS,
        "skip_bad": NOT_FLAGS,
        "output": NOT_PATHS,
    },
    load: {
        "path": [*NOT_PATHS, None],
        "split": NOT_NAMES,
        "labels": [*NOT_NAMES, None],
        "on_bad_row": [*NOT_NAMES, None],
        "peak_frames": [*NOT_WHOLE, 0, None],
        "subjects_from_names": NOT_FLAGS,
        "class_order": NOT_NAMES,
    },
    subject_folds: {"folds": [*NOT_WHOLE, 0, 1, None]},
    leave_subjects_out: {"count": [*NOT_WHOLE, 0, None]},
    TrainOptions: {
        "resume": NOT_FLAGS,
        "max_steps": [*NOT_WHOLE, 0],
        "checkpoint_steps": [*NOT_WHOLE, 0],
    },
    data: {
        "path": [*NOT_PATHS, None],
        "cache": [*NOT_PATHS, None],
        "limit": [*NOT_WHOLE, 0],
        "skip_bad": NOT_FLAGS,
        "backgrounds": NOT_PATHS,
    },
}
#: The option's name in the error, where it is another.
NAMED = {"max_drop": "max_drop_pp", "method": "calibration method", "buckets": "bucket", "plugin": "plugin"}


def cases() -> Iterator[Any]:
    for take, options in REFUSED.items():
        for option, values in options.items():
            for value in values:
                yield pytest.param(take, option, value, id=f"{take.__name__}-{option}-{value!r:.20}")


@pytest.mark.parametrize(("take", "option", "value"), list(cases()))
def test_what_options_refuse(take: Callable[..., Any], option: str, value: Any) -> None:
    first = (DATA,) if take in (subject_folds, leave_subjects_out) else ()
    with pytest.raises(UsageError, match=NAMED.get(option, option)):
        take(*first, **{option: value})


@pytest.mark.parametrize(
    "take",
    [
        SessionOptions,
        DetectorOptions,
        RunnerOptions,
        EngineOptions,
        Bounds,
        Int8Options,
        build,
        TrainOptions,
        data,
    ],
)
def test_their_defaults_are_taken(take: Callable[..., Any]) -> None:
    take()


def test_every_number_of_an_option_is_bounded_above() -> None:
    """A new option without a check fails here."""
    for options in (
        SessionOptions,
        DetectorOptions,
        RunnerOptions,
        EngineOptions,
        Bounds,
        Int8Options,
        TrainOptions,
    ):
        known = REFUSED[options].keys() | {
            "bounds",
            "initial",
            "dla_core",
            "int8_config",
        }  # these are of types of their own
        assert {field.name for field in dataclasses.fields(options)} <= known


@pytest.mark.parametrize("value", NOT_WHOLE)
def test_a_dla_is_a_whole_number(value: Any) -> None:
    fields = {"precision": "int8", "min_batch": 1, "opt_batch": 1, "max_batch": 1}
    with pytest.raises(UsageError, match="dla_core"):
        EngineOptions(dla_core=value, **fields)
    assert EngineOptions(dla_core=1, **fields).dla_core == 1


def test_numbers_of_numpy_are_numbers() -> None:
    require_whole("x", np.int64(3), 1, 4)
    require_number("x", np.float32(0.5), 0, 1)
    assert is_number(np.float64(1))
    assert not is_number(np.float32("nan"))
    assert not is_number(np.bool_(True))


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(UsageError) as caught:
        require_whole("x", "9" * 10_000, 1, 4)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("value", "fine"), [("a", True), ("a" * 9, False), ("", False), ("a\n", False), (b"a", False)]
)
def test_text(value: Any, fine: bool) -> None:
    assert is_text(value, 8) is fine


@pytest.mark.parametrize("name", NOT_NAMES)
def test_what_is_no_name_is_looked_up_nowhere(name: Any) -> None:
    with pytest.raises(UsageError, match="thing must be a name, found .*. Fix: choose from a, b"):
        lookup({"a": 1, "b": 2}, name, "thing")

"""Options of a runtime, as a value and as keyword arguments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fer_edge import Runtime, RuntimeOptions
from fer_edge.backends import SessionOptions
from fer_edge.errors import UsageError
from fer_edge.runtime.options import RuntimeChanges, make_options


@pytest.mark.parametrize(
    "bad", [35, -0.1, 1.01, float("nan"), float("inf"), "0.5", None, True, [0.5], 10**400]
)
def test_a_bound_that_is_no_probability_is_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="min_probability must be a number from 0 to 1, found"):
        RuntimeOptions(min_probability=bad)
    RuntimeOptions(min_probability=np.float32(0.5))


def test_options_by_keyword_change_those_given(astronaut: np.ndarray) -> None:
    options = RuntimeOptions(backend="onnxruntime", min_probability=0.2)
    with Runtime(options=options, min_probability=1.0) as runtime:
        assert runtime.options == dataclasses.replace(options, min_probability=1.0)
        assert runtime(astronaut).faces[0].reason == "uncertain"
    with pytest.raises(TypeError, match="min_probabilty"):
        Runtime(min_probabilty=1.0)


def test_keyword_arguments_are_the_fields_of_the_options() -> None:
    fields = (*dataclasses.fields(RuntimeOptions), *dataclasses.fields(SessionOptions))
    expected = {field.name: field.type for field in fields if field.name != "int8_config"}
    assert RuntimeChanges.__annotations__.keys() == expected.keys()
    found = {name: value.__forward_arg__ for name, value in RuntimeChanges.__annotations__.items()}
    assert found == expected


def test_a_mistyped_keyword_is_suggested() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'atention' \(did you mean 'attention'"):
        Runtime(atention=True)


def test_the_session_of_given_options_is_kept() -> None:
    session = SessionOptions(threads=3, precision="fp32", dla_core=1, gpu_fallback=True)
    made = make_options(RuntimeOptions(session=session), max_batch=2)
    assert made.session == dataclasses.replace(session, max_batch=2)


@pytest.mark.parametrize("session", [None, {"threads": 2}, RuntimeOptions()])
def test_what_is_no_session_is_refused(session: object) -> None:
    with pytest.raises(UsageError, match="session must be SessionOptions, found"):
        RuntimeOptions(session=session)


def test_what_is_no_int8_config_is_refused() -> None:
    with pytest.raises(UsageError, match="int8_config must be None or Int8Config, found 'x'"):
        SessionOptions(int8_config="x")

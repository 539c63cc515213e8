"""Candidates for bundles of every precision and machines of several kinds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fer_edge import Runtime, RuntimeOptions
from fer_edge.backends import BACKENDS, Availability, SessionOptions, available_backends
from fer_edge.backends.openvino import OpenVinoBackend
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.cli import make_parser
from fer_edge.errors import BundleError, UsageError
from fer_edge.models.catalogue import DEFAULT_MODEL, SHIPPED, shipped_bundle
from fer_edge.runtime.choice import Candidate, choose_plain, list_candidates
from fer_edge.runtime.options import make_options
from fer_edge.system.processors import Processors
from fer_edge.weights.request import request_weights

FOUR = Processors(machine=4, logical=4, cores=4)
needs_openvino = pytest.mark.skipif(
    "openvino" not in available_backends(), reason="needs OpenVINO: pip install 'fer-edge[openvino]'"
)


@pytest.fixture(scope="module")
def fp32() -> Bundle:
    """A bundle without INT8."""
    return open_bundle(shipped_bundle("visual-attention"))


@pytest.fixture(scope="module")
def default() -> Bundle:
    """The default bundle, with INT8 beside FP32."""
    return open_bundle(shipped_bundle())


@pytest.fixture(scope="module")
def int8(int8_bundle: Path) -> Bundle:
    return open_bundle(int8_bundle)


@needs_openvino
def test_a_bundle_offers_what_it_was_built_for(fp32: Bundle, default: Bundle, int8: Bundle) -> None:
    """The default bundle runs in FP32 until INT8 is measured to be faster."""
    assert (default.manifest.precision, int8.manifest.precision) == ("fp32", "int8")
    for bundle, precisions in ((fp32, {"fp32"}), (default, {"fp32", "int8"}), (int8, {"fp32", "int8"})):
        found = list_candidates(bundle, RuntimeOptions(), FOUR)
        assert found[0] == choose_plain(bundle, RuntimeOptions())
        assert found[0] == Candidate("openvino", bundle.manifest.precision)
        assert {c.precision for c in found} == precisions
        assert {c.backend for c in found} == {"openvino", "onnxruntime"}
        assert {c.threads for c in found} == {None, 1, 2}
        assert {(c.backend, c.max_batch) for c in found} == {
            ("openvino", 64),
            ("openvino", 1),
            ("onnxruntime", 64),
        }
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "asked",
    [
        {"backend": "onnxruntime"},
        {"precision": "int8"},
        {"precision": "fp32"},
        {"threads": 3},
        {"max_batch": 7},
        {"backend": "onnxruntime", "precision": "int8", "threads": 1, "max_batch": 1},
    ],
)
def test_what_is_asked_for_is_not_varied(int8: Bundle, asked: dict[str, object]) -> None:
    found = list_candidates(int8, make_options(**asked), FOUR)
    assert all({getattr(candidate, name) for candidate in found} == {asked[name]} for name in asked)
    assert len(found) == 1 or len(asked) < 4


def test_a_precision_that_the_bundle_does_not_offer_is_an_error(
    fp32: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_EDGE_TUNE", "1")
    for precision in ("int8", "fp16"):
        with pytest.raises(BundleError, match=f"holds no {precision} model .*. Fix: run fer-edge build"):
            Runtime(fp32, precision=precision)
    for name in SHIPPED.keys() - {DEFAULT_MODEL}:
        with pytest.raises(BundleError) as caught:
            open_bundle(shipped_bundle(name)).model_path("int8", "cpu")
        command = str(caught.value).partition("Fix: run ")[2].removesuffix(" and use that bundle")
        found = make_parser(["build"]).parse_args(shlex.split(command)[1:])
        assert (found.precision, str(found.output)) == ("int8", f"{name}-int8.fer")
        assert request_weights(found.model, found.weights).shipped == name
    with pytest.raises(UsageError, match="precision must be None or one of fp32, fp16, int8, found 'fp8'"):
        Runtime(fp32, precision="fp8")


@pytest.mark.parametrize(
    ("processors", "threads"),
    [
        (Processors(machine=1, logical=1, cores=1), {None}),
        (Processors(machine=2, logical=2, cores=2), {None, 1}),
        (Processors(machine=8, logical=8, cores=4), {None, 1, 2, 8}),
        (Processors(machine=64, logical=64, cores=32, quota=2), {None, 1, 2}),
        (Processors(machine=8, logical=3, cores=3), {None, 1, 3}),
    ],
)
def test_threads_fit_the_processors(fp32: Bundle, processors: Processors, threads: set[int | None]) -> None:
    found = list_candidates(fp32, RuntimeOptions(backend="onnxruntime"), processors)
    assert {candidate.threads for candidate in found} == threads
    assert found[0].threads is None
    if processors.quota:  # a backend may start as many threads as the machine has: tried last
        assert [candidate.threads for candidate in found] == [None, 2, 1]


def test_from_a_gpu_that_takes_frames_nothing_moves_to_the_processor(
    int8: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRtBackend, "available", lambda backend: Availability(True, "10.3.0"))
    found = list_candidates(int8, RuntimeOptions(), FOUR)
    assert found[0] == Candidate("tensorrt", "int8")
    assert {candidate.backend for candidate in found} == {"tensorrt", "tensorrt-rtx"}
    assert {candidate.threads for candidate in found} == {None}
    assert {candidate.max_batch for candidate in found} == {64, 1}
    assert list_candidates(int8, make_options(backend="tensorrt", dla_core=0), FOUR) == (found[0],)


def test_without_openvino_onnx_runtime_is_the_plain_choice(
    int8: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoBackend, "available", lambda backend: Availability(False))
    if BACKENDS["tensorrt"].available().ok:
        pytest.skip("needs a machine without TensorRT")
    assert choose_plain(int8, RuntimeOptions()) == Candidate("onnxruntime", "int8")


@pytest.mark.parametrize(("max_batch", "compiled"), [(1, 1), (2, None), (64, None)])
def test_the_session_is_opened_as_asked_with_what_was_chosen(max_batch: int, compiled: int | None) -> None:
    asked = SessionOptions(threads=9, dla_core=1, gpu_fallback=True, max_batch=5)
    found = Candidate("tensorrt", "int8", 3, max_batch).session_options(asked)
    assert found == SessionOptions(threads=3, dla_core=1, gpu_fallback=True, max_batch=compiled)

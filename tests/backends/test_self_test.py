"""Self-test: correct sessions pass, sessions with wrong outputs are rejected, and nothing is loaded untested."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge import Runtime
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_tested_session
from fer_edge.backends import self_test as rule
from fer_edge.backends.base import Session
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.self_test import OFF, TOLERANCES, changed_classes, relative_errors
from fer_edge.backends.self_test_data import SelfTestData, read_self_test, write_self_test
from fer_edge.bundle import MANIFEST, SELF_TEST, Bundle, ModelFile, open_bundle, write_bundle
from fer_edge.calibration.qdq.saturation import SaturationEmulator
from fer_edge.errors import BundleError, SelfTestError
from fer_edge.manifest import Manifest, SelfTestRecord
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.spec import ModelSpec

ONE_THREAD = SessionOptions(threads=1)
CPU_BACKENDS = available_backends("cpu")
Outputs = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def int8(int8_bundle: Path) -> Bundle:
    return open_bundle(int8_bundle)


class Altered(OnnxRuntimeBackend):
    """ONNX Runtime with outputs changed by ``alter``; counts closed sessions."""

    def __init__(self, alter: Callable[[Path | ModelFile, np.ndarray, Outputs], Outputs]) -> None:
        self.alter = alter
        self.closed = 0

    def open(self, model: Path | ModelFile, options: SessionOptions) -> Any:
        session, backend = super().open(model, options), self
        if str(model).startswith("int8-probe"):  # of the arithmetic, which may run first in this process
            return session

        class Wrapped:
            largest_batch = None

            def run(self, batch: np.ndarray) -> Outputs:
                return backend.alter(model, batch, session.run(batch))

            def close(self) -> None:
                backend.closed += 1
                session.close()

        return Wrapped()


def copy_of(
    bundle: Bundle, path: Path, change: Callable[[dict[str, Any]], Any] = lambda value: None
) -> Bundle:
    shutil.copytree(bundle.path, path)
    value = json.loads((path / MANIFEST).read_text())
    change(value)
    (path / MANIFEST).write_text(json.dumps(value))
    return open_bundle(path)


def as_version_1(value: dict[str, Any]) -> None:
    value["format_version"] = 1
    for name in ("class_frequencies", "logit_prior", "default_prior", "self_test"):
        value.pop(name)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_pass(name: str, backend: str) -> None:
    opened = load_tested_session(open_bundle(shipped_bundle(name)), BACKENDS[backend], None, ONE_THREAD)
    report = opened.self_test
    opened.session.close()
    assert report.mode == "passed"
    assert report.error is not None
    assert report.error < 1e-4
    assert report.faces >= 2
    assert report.batches[0] == 1


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("max_batch", [None, 1])
def test_int8_passes(int8: Bundle, backend: str, max_batch: int | None) -> None:
    options = SessionOptions(threads=1, max_batch=max_batch)
    opened = load_tested_session(int8, BACKENDS[backend], "int8", options)
    opened.session.close()
    assert (opened.self_test.mode, opened.self_test.tolerance) == ("passed", TOLERANCES["int8"])
    assert (opened.self_test.error or 0) < TOLERANCES["int8"] / 2


def test_the_references_are_those_of_onnx_runtime(int8: Bundle) -> None:
    data = read_self_test(int8.read(SELF_TEST), int8.spec)
    assert data.logits.keys() == {"fp32", "int8.cpu", "int8.tensorrt"}
    assert len(data.crops) == 8
    assert data.crops.shape[1] > int8.spec.input_height
    assert len({int(row.argmax()) for row in data.logits["fp32"]}) >= 4


def test_the_faces_show_saturated_sums(int8: Bundle) -> None:
    data = read_self_test(int8.read(SELF_TEST), int8.spec)
    assert int8.manifest.self_test == SelfTestRecord()
    batch = rule.prepare_batch(list(data.crops), int8.spec)
    saturated = SaturationEmulator(int8.model_path("int8", "cpu")).logits(batch)
    errors = relative_errors(saturated, data.logits["int8.cpu"])
    assert (errors[:4] > 2 * TOLERANCES["int8"]).all()


def test_saturated_sums_are_refused(int8: Bundle) -> None:
    def saturate(model: Path | ModelFile, batch: np.ndarray, outputs: Outputs) -> Outputs:
        emulator = SaturationEmulator(int8.model_path("int8", "cpu"))
        return {**outputs, "logits": emulator.logits(batch)} if "int8" in str(model) else outputs

    backend = Altered(saturate)
    with pytest.raises(
        SelfTestError, match=r"int8.cpu of .* error of at most 0.05, .* another\s+class"
    ) as found:
        load_tested_session(int8, backend, "int8", ONE_THREAD)
    for word in ("backend onnxruntime", "--backend", "fer-edge build --model conv-attention --int8"):
        assert word in str(found.value)
    assert backend.closed == 1


@pytest.mark.parametrize("scale", [1e-4, 3e-3, 0.2])
def test_errors_beyond_the_tolerance_are_refused(scale: float) -> None:
    noise = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)

    def disturb(model: Path | ModelFile, batch: np.ndarray, outputs: Outputs) -> Outputs:
        logits = outputs["logits"]
        wanted = scale * np.linalg.norm(logits - logits.mean(1, keepdims=True), axis=1, keepdims=True)
        error = noise[: len(logits)] - noise[: len(logits)].mean(1, keepdims=True)
        return {**outputs, "logits": logits + wanted * error / np.linalg.norm(error, axis=1, keepdims=True)}

    bundle = open_bundle(shipped_bundle())
    if scale < TOLERANCES["fp32"]:
        report = load_tested_session(bundle, Altered(disturb), None, ONE_THREAD).self_test
        assert report.error == pytest.approx(scale, rel=0.05)
        return
    with pytest.raises(SelfTestError, match="fp32 of"):
        load_tested_session(bundle, Altered(disturb), None, ONE_THREAD)


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (lambda o: {"scores": o["logits"], "attention": o["attention"]}, "expected the outputs logits, attention"),
        (lambda o: {"logits": o["logits"]}, "expected the outputs logits, attention, found logits"),
        (lambda o: {**o, "logits": np.repeat(o["logits"], 2, axis=0)}, "logits must have 1 rows and rank 2"),
        (lambda o: {**o, "logits": o["logits"][:, :5]}, r"expected logits of 8 classes \(neutral.* found 5"),
        (lambda o: {**o, "logits": o["logits"][..., None]}, "logits must have 1 rows and rank 2"),
        (lambda o: {**o, "logits": o["logits"].astype(np.float64)}, "logits must be float32, found float64"),
        (lambda o: {**o, "logits": o["logits"] * np.nan}, "logits must be finite"),
        (lambda o: {**o, "attention": o["attention"] * np.inf}, "attention must be finite"),
        (lambda o: {**o, "attention": o["attention"][0]}, "attention must have 1 rows and rank 3"),
    ],
)  # fmt: skip
def test_a_model_that_disagrees_with_its_spec(alter: Callable[[Outputs], Outputs], problem: str) -> None:
    backend = Altered(lambda model, batch, outputs: alter(outputs))
    with pytest.raises(BundleError, match=f"does not fit its spec: {problem}"):
        load_tested_session(open_bundle(shipped_bundle()), backend, None, ONE_THREAD)
    assert backend.closed == 1


def small_bundle(
    path: Path, classes: int, names: tuple[str, ...] = ("a", "b", "c"), output: str = "logits"
) -> Bundle:
    """Real model with a spec that may differ; bundle of format 1, without references."""
    weights = np.random.default_rng(0).normal(size=(classes, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("Gemm", ["rows", "w"], [output], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 1, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", classes])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = path.with_suffix(".onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    spec = ModelSpec("net", 8, 8, "gray", 1, (0.0,), (1.0,), names)
    return write_bundle(path, Manifest(spec, "fp32", {}), {"model.onnx": model})


@pytest.mark.parametrize(
    ("classes", "output", "problem"),
    [
        (8, "logits", r"'logits': \(3,\).* found .*'logits': \(8,\)"),
        (3, "scores", "outputs logits, found .*'scores'"),
    ],
)
def test_a_file_that_disagrees_with_its_manifest(
    tmp_path: Path, classes: int, output: str, problem: str
) -> None:
    bundle = small_bundle(tmp_path / "a.fer", classes, output=output)
    for backend in CPU_BACKENDS:
        with pytest.raises(BundleError, match=problem):
            Runtime(bundle, backend=backend)
    Runtime(small_bundle(tmp_path / "good.fer", 3)).close()


def test_bundles_of_format_1_are_compared_with_fp32(int8: Bundle, tmp_path: Path) -> None:
    old = copy_of(int8, tmp_path / "old.fer", as_version_1)
    report = load_tested_session(old, BACKENDS["onnxruntime"], "int8", ONE_THREAD).self_test
    assert (report.mode, report.tolerance) == ("derived", TOLERANCES["derived"])
    assert 0 < (report.error or 0) < TOLERANCES["derived"]
    assert load_tested_session(old, BACKENDS["onnxruntime"], "fp32", ONE_THREAD).self_test.mode == "contract"

    def swap(model: Path | ModelFile, batch: np.ndarray, outputs: Outputs) -> Outputs:
        return {**outputs, "logits": outputs["logits"][:, ::-1].copy()} if "int8" in str(model) else outputs

    with pytest.raises(SelfTestError, match="int8.cpu of"):
        load_tested_session(old, Altered(swap), "int8", ONE_THREAD)


def test_a_manifest_tightens_and_never_widens(int8: Bundle, tmp_path: Path) -> None:
    def set_tolerance(value: float) -> Callable[[dict[str, Any]], Any]:
        return lambda manifest: manifest["self_test"]["tolerances"].update({"int8.cpu": value})

    wide = copy_of(int8, tmp_path / "wide.fer", set_tolerance(0.9))
    report = load_tested_session(wide, BACKENDS["onnxruntime"], "int8", ONE_THREAD).self_test
    assert report.tolerance == TOLERANCES["int8"]
    tight = copy_of(int8, tmp_path / "tight.fer", set_tolerance(1e-9))
    noisy = Altered(lambda model, batch, outputs: {**outputs, "logits": outputs["logits"] + batch.mean() * 1e-4 * np.arange(8, dtype=np.float32)})  # fmt: skip
    with pytest.raises(SelfTestError, match="at most 1e-09"):
        load_tested_session(tight, noisy, "int8", ONE_THREAD)


def test_a_bundle_whose_references_lack_the_model(int8: Bundle, tmp_path: Path) -> None:
    data = read_self_test(int8.read(SELF_TEST), int8.spec)
    write_self_test(tmp_path / "t.npz", SelfTestData(data.crops, {"fp32": data.logits["fp32"]}))
    files = {name: int8.path / name for name in int8.manifest.files}
    files[SELF_TEST] = tmp_path / "t.npz"
    bundle = write_bundle(tmp_path / "a.fer", int8.manifest, files)
    with pytest.raises(BundleError, match="has no self-test of its model int8.cpu"):
        load_tested_session(bundle, BACKENDS["onnxruntime"], "int8", ONE_THREAD)


def test_random_weights_are_compared_by_shape_alone(int8: Bundle) -> None:
    provenance = {**int8.manifest.provenance, "weights": "random"}
    random = dataclasses.replace(int8, manifest=dataclasses.replace(int8.manifest, provenance=provenance))
    assert (
        load_tested_session(random, BACKENDS["onnxruntime"], "int8", ONE_THREAD).self_test.mode == "contract"
    )


def test_it_can_be_left_out_and_that_is_recorded(astronaut: np.ndarray) -> None:
    backend = Altered(lambda model, batch, outputs: {**outputs, "logits": outputs["logits"] * 0})
    opened = load_tested_session(open_bundle(shipped_bundle()), backend, None, ONE_THREAD, self_test=False)
    assert opened.self_test == OFF
    with Runtime(self_test=False, backend="onnxruntime") as runtime:
        assert runtime.info["self_test"]["mode"] == "off"
        assert runtime(astronaut).faces[0].label == "happiness"


def test_info_says_what_computes(int8: Bundle) -> None:
    with Runtime(int8, backend="onnxruntime") as runtime:
        info = json.loads(json.dumps(runtime.info))
    assert info["self_test"]["mode"] == "passed"
    assert (info["backend"], info["precision"], info["format_version"]) == ("onnxruntime", "int8", 2)
    assert info["processor_features"]
    assert info["int8_arithmetic"]


def test_a_slow_network_is_tested_on_two_faces(int8: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "_BUDGET_S", 1e-9)
    report = load_tested_session(int8, BACKENDS["onnxruntime"], "int8", ONE_THREAD).self_test
    assert (report.faces, report.batches) == (2, (1,))
    monkeypatch.setattr(rule, "_BUDGET_S", 1e9)
    report = load_tested_session(int8, BACKENDS["onnxruntime"], "int8", ONE_THREAD).self_test
    assert (report.faces, report.batches) == (8, (1, 6))


def test_an_engine_is_tested_at_its_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def note(model: Path | ModelFile, batch: np.ndarray, outputs: Outputs) -> Outputs:
        sizes.append(len(batch))
        return outputs

    backend = Altered(note)
    opened = Altered.open

    def open_with_bucket(self: Altered, model: Path | ModelFile, options: SessionOptions) -> Session:
        session = opened(self, model, options)
        session.largest_batch = 16
        return session

    monkeypatch.setattr(Altered, "open", open_with_bucket)
    load_tested_session(open_bundle(shipped_bundle()), backend, None, ONE_THREAD)
    assert sizes == [1, 1, 16]


def test_errors_are_those_of_centred_logits() -> None:
    expected = np.array([[3, 0, 0], [0, 4, 2]], np.float32)
    assert relative_errors(expected + 7, expected).max() < 1e-6
    np.testing.assert_allclose(relative_errors(2 * expected, expected), 1)
    swapped = expected[:, [1, 0, 2]]
    assert changed_classes(swapped, expected, 0.05).all()
    assert not changed_classes(swapped, expected, 0.9).any()

"""Runtime on real frames: one result per frame, with values equal to those of its components."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

import fer_edge
from fer_edge import Runtime, RuntimeOptions
from fer_edge.backends import BACKENDS, Session, SessionOptions, available_backends
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.detection import DETECTORS
from fer_edge.errors import BundleError, DataError, FerEdgeError, UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import crop_face, prepare_batch
from fer_edge.probabilities import make_rule
from fer_edge.results import RuntimeState


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    with Runtime(options=RuntimeOptions(backend="onnxruntime")) as opened:
        yield opened


class Recorder:
    """Session that records its logits."""

    def __init__(self, session: Session, seen: list[np.ndarray]) -> None:
        self._session, self._seen = session, seen

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        outputs = self._session.run(batch)
        self._seen.append(outputs["logits"])
        return outputs


def test_the_astronaut_smiles(runtime: Runtime, astronaut: np.ndarray) -> None:
    result = runtime(astronaut)
    (face,) = result.faces
    assert face.label == "happiness"
    assert face.probability == max(face.probabilities.values()) > 0.9
    assert sum(face.probabilities.values()) == pytest.approx(1)
    assert set(face.probabilities) == set(runtime.spec.class_names)
    assert face.reason is None
    assert result.state is RuntimeState.RUNNING
    assert result.timings_ms["total"] >= result.timings_ms["detect"] > 0
    left, top, right, bottom = face.box_xyxy
    assert 0 <= left < right <= 512
    assert 0 <= top < bottom <= 512


def test_probabilities_are_those_of_the_parts(runtime: Runtime, astronaut: np.ndarray) -> None:
    (face,) = runtime(astronaut).faces
    crop = crop_face(astronaut, face.box_xyxy, runtime.spec.crop)
    session = BACKENDS["onnxruntime"].open(runtime.bundle.path / "model.onnx", SessionOptions())
    logits = session.run(prepare_batch([crop], runtime.spec))["logits"]
    expected = make_rule(runtime.bundle.manifest)(logits)[0]
    assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_logits_are_divided_by_the_temperature_of_the_bundle(astronaut: np.ndarray) -> None:
    bundle = open_bundle(shipped_bundle())
    found = []
    for temperature in (1.0, 2.0):
        manifest = dataclasses.replace(bundle.manifest, temperature=temperature)
        options = RuntimeOptions(backend="onnxruntime", prior="training")
        with Runtime(Bundle(bundle.path, manifest), options) as runtime:
            found.append(np.array([*runtime(astronaut).faces[0].probabilities.values()]))
    root = np.sqrt(found[0])
    np.testing.assert_allclose(found[1], root / root.sum(), atol=1e-6)


def test_a_frame_without_faces_is_a_result(runtime: Runtime) -> None:
    assert runtime(np.full((240, 320, 3), 90, np.uint8)).faces == ()


def test_a_runtime_answers_under_the_prior_of_its_options(astronaut: np.ndarray) -> None:
    """Bayes' rule converts the result under the training prior to another prior; an excluded class never wins."""
    found, model = {}, open_bundle(shipped_bundle()).manifest
    frequencies = dict(model.class_frequencies or {})
    excluded = {name: 0 if name == "happiness" else 1 / 7 for name in frequencies}
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    for name, prior in (
        ("default", None),
        ("training", "training"),
        ("uniform", "uniform"),
        ("given", excluded),
    ):
        with Runtime(backend="onnxruntime", prior=prior, min_probability=0) as runtime:
            faces = runtime(pair).faces
            found[name] = np.array([[*face.probabilities.values()] for face in faces])
            assert runtime.probability_rule == make_rule(model, prior)
        assert [face.label for face in faces] == [
            runtime.spec.class_names[i] for i in found[name].argmax(axis=1)
        ]
        assert found[name].sum(axis=1) == pytest.approx(1)
        assert ("happiness" in {face.label for face in faces}) == (name != "given")
    shares = np.array([*frequencies.values()])
    for name, wanted in (
        ("default", np.sqrt(shares)),
        ("uniform", np.ones(8)),
        ("given", np.array([*excluded.values()])),
    ):
        expected = found["training"] * wanted / shares
        np.testing.assert_allclose(found[name], expected / expected.sum(axis=1, keepdims=True), rtol=1e-9)
    with pytest.raises(UsageError, match="unknown prior 'uniforme'.*did you mean 'uniform'"):
        Runtime(prior="uniforme")


def test_a_bundle_of_format_1_answers_bit_for_bit_as_before(astronaut: np.ndarray, tmp_path: Path) -> None:
    """Compared with the softmax of earlier versions without priors, on the logits of the same session."""
    shutil.copytree(shipped_bundle(), tmp_path / "old.fer")
    manifest = tmp_path / "old.fer" / "manifest.json"
    value = json.loads(manifest.read_text()) | {"format_version": 1}
    for name in ("class_frequencies", "logit_prior", "default_prior", "self_test"):
        del value[name]
    del value["files"]["self_test.npz"]
    (tmp_path / "old.fer" / "self_test.npz").unlink()
    manifest.write_text(json.dumps(value))
    found = []
    for bundle, prior in ((tmp_path / "old.fer", None), (shipped_bundle(), "training")):
        seen: list[np.ndarray] = []
        with Runtime(bundle, backend="onnxruntime", prior=prior, threads=1) as runtime:
            session = runtime._pipeline.host.session
            runtime._pipeline.host.session = Recorder(session, seen)
            (face,) = runtime(astronaut).faces
        scaled = seen[0] / value["temperature"]
        exponentials = np.exp(np.asarray(scaled, np.float64) - np.max(scaled, axis=-1, keepdims=True))
        expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
        assert [*face.probabilities.values()] == expected[0].tolist()
        found.append(face.probabilities)
    assert found[0] == found[1]
    with pytest.raises(UsageError, match="choose prior 'training', or build from"):
        Runtime(tmp_path / "old.fer", prior="balanced")


def test_too_little_certainty_leaves_the_label_open(astronaut: np.ndarray) -> None:
    with Runtime(options=RuntimeOptions(backend="onnxruntime", min_probability=1.0)) as runtime:
        (face,) = runtime(astronaut).faces
    assert (face.label, face.reason) == (None, "uncertain")
    assert face.probability > 0.5


@pytest.mark.parametrize(
    "frame",
    [np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3), np.float32), np.zeros((0, 0, 3), np.uint8)],
    ids=["four channels", "float", "empty"],
)
def test_frames_of_another_kind_are_refused(runtime: Runtime, frame: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected a frame of uint8 BGR pixels"):
        runtime(frame)


def test_stream_over_a_folder_and_a_video(runtime: Runtime, astronaut: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b", "a"):
        cv2.imwrite(str(folder / f"{name}.png"), astronaut)
    results = list(runtime.stream(folder))
    assert [r.source for r in results] == ["a.png", "b.png"]
    assert [r.index for r in results] == [0, 1]
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (512, 512))
    for _ in range(3):
        writer.write(astronaut)
    writer.release()
    assert [len(r.faces) for r in runtime.stream(str(video))] == [1, 1, 1]
    latency = runtime.latency()
    assert latency["total"].n >= 5
    assert latency["total"].p50_ms <= latency["total"].p99_ms


def test_every_backend_gives_the_same_answer(astronaut: np.ndarray) -> None:
    found = {}
    for name in available_backends("cpu"):
        with Runtime(options=RuntimeOptions(backend=name)) as runtime:
            (face,) = runtime(astronaut).faces
            found[name] = list(face.probabilities.values())
    assert found["openvino"] == pytest.approx(found["onnxruntime"], abs=1e-4)


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_every_detector_serves_the_runtime(detector: str, astronaut: np.ndarray) -> None:
    with Runtime(options=RuntimeOptions(backend="onnxruntime", detector=detector)) as runtime:
        (face,) = runtime(astronaut).faces
    assert face.label == "happiness"


def test_random_weights_need_consent(tmp_path: Path) -> None:
    bundle = build(
        BuildOptions(weights="random", precision="fp32", backend="onnxruntime", output=tmp_path / "r.fer")
    ).bundle
    assert bundle.manifest.timing_only
    with pytest.raises(BundleError, match="timing only.*--allow-random"):
        Runtime(bundle)
    Runtime(bundle, RuntimeOptions(backend="onnxruntime", allow_random=True)).close()


def test_a_bundle_without_attention_names_the_command_that_builds_one() -> None:
    shipped = open_bundle(shipped_bundle())
    spec = dataclasses.replace(shipped.spec, outputs=("logits",))
    plain = Bundle(shipped.path, dataclasses.replace(shipped.manifest, spec=spec))
    message = (
        "has no attention output.*Fix: run fer-edge build --model conv-attention --weights FILE --attention"
    )
    with pytest.raises(BundleError, match=message):
        Runtime(plain, attention=True)


def test_a_missing_bundle_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FerEdgeError, match="none.fer does not exist. Fix: give the folder of a bundle"):
        Runtime(tmp_path / "none.fer")


def test_no_frame_touches_the_disk(astronaut_file: Path, tmp_path: Path) -> None:
    """Privacy: a run without outputs writes nothing but the cache of detector weights."""
    code = "import cv2, sys; from fer_edge import Runtime; r = Runtime(); print(len(r(cv2.imread(sys.argv[1])).faces))"
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "FER_EDGE_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(home),
    }
    result = subprocess.run(
        [sys.executable, "-c", code, str(astronaut_file)],
        env=environment, cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "1"
    assert [p for p in home.rglob("*") if p.is_file()] == []
    assert {p.suffix for p in (tmp_path / "cache").rglob("*") if p.is_file()} <= {".onnx"}


def test_public_names_are_those_documented() -> None:
    assert fer_edge.Runtime is Runtime
    assert {"Runtime", "build", "open_bundle", "FerEdgeError"} <= set(fer_edge.__all__)


@pytest.mark.parametrize(
    ("frame", "hint"),
    [(None, "found NoneType. Fix: check the path: cv2.imread returns None"), ("photo.jpg", "cannot read photo.jpg: No such file"), ([[1]], "found list. Fix: give one frame at a time"), (b"x", "the given data is not an image")],
)  # fmt: skip
def test_what_is_no_array_is_refused_with_a_hint(frame: object, hint: str) -> None:
    with Runtime(backend="onnxruntime") as runtime, pytest.raises(DataError, match=hint):
        runtime(frame)


def test_a_source_of_ones_own_may_yield_arrays(runtime: Runtime, astronaut: np.ndarray) -> None:
    """As a ROS topic gives them; what knows the time of capture yields frames."""

    class Topic:
        is_live = True

        def __iter__(self) -> Iterator[np.ndarray]:
            return iter([astronaut, np.roll(astronaut, 8, axis=1)])

        def close(self) -> None:
            pass

    results = list(runtime.stream(Topic()))
    assert [result.index for result in results] == [0, 1]
    assert all(len(result.faces) == 1 and result.frame_age_ms >= 0 for result in results)

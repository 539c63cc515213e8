"""YuNet on our backends against OpenCV's FaceDetectorYN, and files that are not YuNet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from matching import compare
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import BACKENDS
from fer_edge.detection import create_detector
from fer_edge.detection.base import DetectorOptions, Effort
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.detection.postprocess import to_detections
from fer_edge.detection.yunet import weights
from fer_edge.detection.yunet.decoding import decode
from fer_edge.detection.yunet.detector import YuNetDetector
from fer_edge.detection.yunet.graph import MAPS, at_size, convert
from fer_edge.detection.yunet.weights import SHIPPED, read_model
from fer_edge.errors import DetectorError
from fer_edge.results import Detection

#: Of the smallest face, here: the photographs' faces have 150 pixels, and are to be shrunk.
FACE_PX = 48
FILES = ["yunet_n_320_320.onnx", "yunet_n_640_640.onnx", "yunet_n_dynamic.onnx"]


def detect_with_opencv(file: Path, frame: np.ndarray, min_score: float) -> list[Detection]:
    """Return OpenCV's detections on the frame downscaled until FACE_PX is 32 pixels, with sides of at least 64."""
    height, width = (round(side * 32 / FACE_PX) for side in frame.shape[:2])
    image = cv2.resize(frame, (width, height))
    bottom, right = max(64 - height, 0), max(64 - width, 0)
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
    size = image.shape[1], image.shape[0]
    found = cv2.FaceDetectorYN.create(str(file), "", size, min_score, 0.3, 5000).detect(image)[1]
    if found is None:
        return []
    points = found[:, :14].reshape(-1, 7, 2) * [frame.shape[1] / width, frame.shape[0] / height]
    boxes = np.concatenate([points[:, 0], points[:, 0] + points[:, 1]], axis=1)
    return to_detections(frame, boxes, found[:, 14], points[:, 2:], FACE_PX)


@pytest.fixture
def yunet_folder(yunet_file) -> Path:
    return yunet_file.parent


@pytest.fixture
def model(yunet_file) -> onnx.ModelProto:
    return onnx.load(yunet_file)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_faces_are_those_of_opencv(backend, photographs, yunet_file):
    state = BACKENDS[backend].available()
    if not state.ok:
        pytest.skip(state.reason)
    detector = create_detector("yunet", DetectorOptions(FACE_PX, backend=backend, turned_looks=0))
    worst = compare(
        # OpenCV cannot read the file with dynamic sizes; its weights are the same.
        (detector.detect(frame), detect_with_opencv(yunet_file, frame, 0.7))
        for frame in photographs
    )
    assert worst.pairs > 200
    assert worst.iou > 0.999
    assert worst.landmarks_px < 0.01
    assert worst.score < 1e-4


def test_many_faces_are_those_of_opencv(astronaut, yunet_file):
    face = astronaut[20:220, 120:320]
    frame = np.full((600, 900, 3), 90, np.uint8)
    for i, side in enumerate((110, 120, 130, 150, 170, 200)):
        left, top = 300 * (i % 3) + 20, 300 * (i // 3) + 20
        frame[top : top + side, left : left + side] = cv2.resize(face, (side, side))
    ours = YuNetDetector(DetectorOptions(FACE_PX, 0.5, turned_looks=0)).detect(frame)
    assert len(ours) == 6
    worst = compare([(ours, detect_with_opencv(yunet_file, frame, 0.5))])
    assert worst.iou > 0.999


def test_every_anchor_may_be_a_face(astronaut, create):
    found = create("yunet", min_face_px=1, min_score=0.0).detect(astronaut)
    assert 1 < len(found) <= 1000


def make_outputs(logit: float, side_px: int = 64) -> dict[str, np.ndarray]:
    outputs = {}
    for name, stride in MAPS.items():
        outputs[name] = np.zeros((1, 16, side_px // stride, side_px // stride), np.float32)
        outputs[name][:, :2] = logit
    return outputs


def test_boxes_that_are_no_numbers_or_too_large_are_no_faces():
    outputs = make_outputs(-200.0)
    outputs["maps_8"][:, :2] = 200
    outputs["maps_8"][0, 2:6, 0, :3] = np.nan
    outputs["maps_8"][0, 4:6, 0, 3] = 1e30
    outputs["maps_16"][0, :2, 0, :3] = [[np.nan, np.inf, 200], [200, 200, -200]]
    found = decode(outputs, 0.5)
    assert len(found.boxes_xyxy) == len(found.scores) == len(found.landmarks) == 65
    assert found.scores.max() == 1
    frame = np.zeros((64, 64, 3), np.uint8)
    faces = to_detections(frame, found.boxes_xyxy, found.scores, found.landmarks, 1)
    assert all(np.isfinite(face.box_xyxy).all() for face in faces)
    assert sum(face.box_xyxy == (0, 0, 64, 64) for face in faces) == 1


@pytest.mark.parametrize(("min_score", "count"), [(0.0, 84), (0.5, 84), (0.51, 0), (1.0, 0)])
def test_scores_are_geometric_means_of_probabilities(min_score, count):
    """Logits of 0 are probabilities of 0.5."""
    outputs = make_outputs(0.0)
    assert len(decode(outputs, min_score).scores) == count
    for maps in outputs.values():
        maps[:, 0], maps[:, 1] = 1.5, -1.5
    expected = 1 / np.sqrt((1 + np.exp(-1.5)) * (1 + np.exp(1.5)))
    assert decode(outputs, 0.0).scores == pytest.approx(expected)
    assert len(decode(outputs, expected - 1e-6).scores) == 84
    assert len(decode(outputs, expected + 1e-6).scores) == 0


@pytest.mark.parametrize("file", FILES)
def test_the_shipped_file_is_made_from_each_published_one(file, yunet_folder):
    content = (yunet_folder / file).read_bytes()
    assert onnx.load_model_from_string(convert(content, file)) == onnx.load(SHIPPED)


def test_a_converted_file_may_be_named(astronaut):
    assert convert(SHIPPED.read_bytes(), "yunet.onnx") == SHIPPED.read_bytes()
    named = create_detector("yunet", DetectorOptions(model=str(SHIPPED))).detect(astronaut)
    (face,) = create_detector("yunet").detect(astronaut)
    assert [other.box_xyxy for other in named] == [face.box_xyxy]


def test_the_maps_are_the_published_outputs(yunet_file):
    """The reference is the published file, run by ONNX Runtime without any of our code."""
    batch = np.random.default_rng(3).uniform(0, 255, (1, 3, 640, 640)).astype(np.float32)
    published = onnxruntime.InferenceSession(yunet_file, providers=["CPUExecutionProvider"])
    expected = dict(
        zip([o.name for o in published.get_outputs()], published.run(None, {"input": batch}), strict=True)
    )
    session = onnxruntime.InferenceSession(SHIPPED, providers=["CPUExecutionProvider"])
    for (name, stride), maps in zip(MAPS.items(), session.run(list(MAPS), {"input": batch}), strict=True):
        anchors = maps.reshape(1, 16, -1).transpose(0, 2, 1)
        ours = np.concatenate([1 / (1 + np.exp(-anchors[..., :2])), anchors[..., 2:]], axis=2)
        theirs = [expected[f"{head}_{stride}"] for head in ("cls", "obj", "bbox", "kps")]
        np.testing.assert_allclose(ours, np.concatenate(theirs, axis=2), rtol=1e-4, atol=1e-4, err_msg=name)


def test_maps_of_other_layers_are_joined(model, yunet_file):
    """A head that is no pair of convolutions is left as it is."""
    graph = model.graph
    for node in list(graph.node):
        if node.op_type == "Transpose":
            graph.node.append(helper.make_node("Identity", [node.input[0]], [f"{node.input[0]}.same"]))
            node.input[0] += ".same"
    ordered = sorted(graph.node, key=lambda node: node.op_type in ("Transpose", "Reshape", "Sigmoid"))
    stages = ["Identity", "Transpose", "Reshape", "Sigmoid"]
    ordered.sort(key=lambda node: stages.index(node.op_type) if node.op_type in stages else -1)
    del graph.node[:]
    graph.node.extend(ordered)
    joined = convert(model.SerializeToString(), "other.onnx")
    assert sum(n.op_type == "Concat" for n in onnx.load_model_from_string(joined).graph.node) == 3
    batch = np.random.default_rng(4).uniform(0, 255, (1, 3, 96, 64)).astype(np.float32)
    ours, theirs = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
            list(MAPS), {"input": batch}
        )
        for file in (joined, SHIPPED)
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


def test_an_altered_shipped_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "yunet.onnx"
    monkeypatch.setattr(weights, "SHIPPED", path)
    with pytest.raises(DetectorError, match=r"cannot be read \(No such file.*Fix: install FER-Edge again"):
        create_detector("yunet")
    content = bytearray(SHIPPED.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DetectorError, match=r"yunet\.onnx was altered: expected sha256 \w{12}…, found"):
        create_detector("yunet")


def test_the_bytes_that_were_hashed_are_loaded(tmp_path, monkeypatch):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(SHIPPED.read_bytes())
    monkeypatch.setattr(weights, "SHIPPED", path)
    opened = []

    class Exchanging(type(BACKENDS["onnxruntime"])):
        def open(self, model, options):
            path.write_bytes(b"exchanged")
            opened.append(model.sha256)
            return super().open(model, options)

    monkeypatch.setattr("fer_edge.detection.yunet.detector.choose_backend", lambda name: Exchanging())
    create_detector("yunet").close()
    assert opened == [weights.SHIPPED_SHA256]


def test_the_default_needs_no_package_that_is_slow_to_import():
    program = (
        "import sys, numpy as np; from fer_edge.detection import create_detector; "
        "create_detector().detect(np.zeros((480, 640, 3), np.uint8)); "
        "print([m for m in ('onnx', 'google', 'mtcnn', 'joblib', 'lz4', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def refuse(path: Path, reason: str) -> None:
    with pytest.raises(DetectorError, match=reason) as caught:
        create_detector("yunet", DetectorOptions(model=path))
    assert str(path) in str(caught.value)
    assert "Fix: give a YuNet file with --detector-model FILE, such as" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is not a file"),
        (b"", "expected 1 to 67108864 bytes, found 0"),
        (b"garbage" * 100, "it is not an ONNX file"),
        (bytes((64 << 20) + 1), "expected 1 to 67108864 bytes, found 67108865"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path, content, reason):
    path = tmp_path / "yunet.onnx"
    if content is not None:
        path.write_bytes(content)
    refuse(path, reason)


def test_truncated_files_are_refused(tmp_path, yunet_file):
    content = yunet_file.read_bytes()
    path = tmp_path / "yunet.onnx"
    for size in range(1, len(content), len(content) // 40):
        path.write_bytes(content[:size])
        refuse(path, "cannot be (read|run) as YuNet")


def test_other_networks_are_refused(tmp_path):
    path = tmp_path / "mtcnn.onnx"
    for content in mtcnn_models().values():
        path.write_bytes(content)
        refuse(
            path,
            r"expected one input and the outputs cls_8, .*, found the inputs [a-z]+ and the outputs offsets",
        )


def damaged(model: onnx.ModelProto, damage: str) -> onnx.ModelProto:
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    if damage == "two inputs":
        graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif damage == "weights elsewhere":
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../../etc/passwd")
    elif damage == "no reshape":
        makers["bbox_8"].op_type = "Identity"
        del makers["bbox_8"].input[1:]
        makers[makers["bbox_8"].input[0]].op_type = "Identity"
    elif damage == "a cycle":
        makers["cls_8"].input[0] = "cls_8"
    elif damage == "no sigmoid":
        makers[makers["cls_8"].input[0]].output[0] = "cls_8"
        graph.node.remove(makers["cls_8"])
    elif damage == "another order":
        transposition = makers[makers["bbox_8"].input[0]]
        transposition.attribute[0].ints[:] = [0, 3, 2, 1]
    elif damage == "another stride":
        bbox, kps = makers["bbox_16"], makers["bbox_8"]
        bbox.output[0], kps.output[0] = "bbox_8", "bbox_16"
    elif damage == "another layer":
        next(node for node in graph.node if node.op_type == "Conv").op_type = "Unknown"
    elif damage == "another width":
        weight = next(t for t in graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(np.zeros((16, 5, 3, 3), np.float32), weight.name))
    return model


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("two inputs", r"found the inputs \w+, \w+ and the outputs"),
        ("weights elsewhere", "its weights are in another file"),
        ("no reshape", "bbox_8 does not come from Transpose, Reshape"),
        ("no sigmoid", "cls_8 does not come from Transpose, Reshape, Sigmoid"),
        (
            "another order",
            r"the order \[0, 2, 3, 1\] in the transposition of bbox_8, found \[\[0, 3, 2, 1\]\]",
        ),
        ("a cycle", "cls_8 does not come from Transpose, Reshape, Sigmoid"),
        ("another stride", r"expected maps \[4, 8, 8\] for the stride 8 .* found \[4, 4, 4\]"),
        ("another layer", r"expected maps \[1, 8, 8\] for the stride 8 .* found \[\]"),
        ("another width", r"cannot be run as YuNet \(.*running Conv node"),
    ],
)
def test_damaged_networks_are_refused(model, tmp_path, damage, reason):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(damaged(model, damage).SerializeToString())
    refuse(path, reason)


def test_shapes_of_one_size_are_numbers_but_for_the_batch():
    model = onnx.load_model_from_string(at_size(read_model(None), 96, 160))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Shape", "Gather", "Reshape"})
    for output in model.graph.output:
        batch, *rest = output.type.tensor_type.shape.dim
        assert not batch.HasField("dim_value")
        assert [size.dim_value for size in rest] == [16, 96 // MAPS[output.name], 160 // MAPS[output.name]]


def test_a_thorough_search_finds_smaller_faces(astronaut: np.ndarray) -> None:
    """With an option of its own, both searches are the same."""
    small = cv2.resize(
        astronaut, None, fx=0.47, fy=0.47, interpolation=cv2.INTER_AREA
    )  # a face of 44 × 54 pixels
    frame = np.full((480, 640, 3), 90, np.uint8)
    frame[100 : 100 + small.shape[0], 200 : 200 + small.shape[1]] = small
    detector = create_detector("yunet", DetectorOptions(turned_looks=0))
    assert detector.detect(frame) == []
    assert len(detector.detect(frame, Effort.THOROUGH)) == 1
    given = create_detector("yunet", DetectorOptions(min_face_px=40, turned_looks=0))
    assert len(given.detect(frame)) == len(given.detect(frame, Effort.THOROUGH)) == 1

"""YuNet on our backends against OpenCV's FaceDetectorYN, and files that are not YuNet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from matching import MIN_FACE_PX, compare
from onnx import TensorProto, helper, numpy_helper

from fer_edge.backends import BACKENDS
from fer_edge.detection import create_detector
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.detection.postprocess import to_detections
from fer_edge.detection.yunet.detector import YuNetDetector, decode
from fer_edge.detection.yunet.graph import HEADS, OUTPUTS, YuNetModel
from fer_edge.errors import DetectorError
from fer_edge.results import Detection

FILES = ["yunet_n_320_320.onnx", "yunet_n_640_640.onnx", "yunet_n_dynamic.onnx"]


def detect_with_opencv(file: Path, frame: np.ndarray, min_score: float) -> list[Detection]:
    """Return OpenCV's detections on the frame downscaled until MIN_FACE_PX is 20 pixels, with sides of at least 64."""
    height, width = (round(side * 20 / MIN_FACE_PX) for side in frame.shape[:2])
    image = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    bottom, right = max(64 - height, 0), max(64 - width, 0)
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
    size = image.shape[1], image.shape[0]
    found = cv2.FaceDetectorYN.create(str(file), "", size, min_score, 0.3, 5000).detect(image)[1]
    if found is None:
        return []
    points = found[:, :14].reshape(-1, 7, 2) * [frame.shape[1] / width, frame.shape[0] / height]
    boxes = np.concatenate([points[:, 0], points[:, 0] + points[:, 1]], axis=1)
    return to_detections(frame, boxes, found[:, 14], points[:, 2:], MIN_FACE_PX)


@pytest.fixture
def yunet_folder(yunet_file) -> Path:
    return yunet_file.parent


@pytest.fixture
def model(yunet_file) -> onnx.ModelProto:
    return onnx.load(yunet_file)


@pytest.mark.parametrize(
    ("file", "backend"), [*((file, "onnxruntime") for file in FILES), (FILES[0], "openvino")]
)
def test_faces_are_those_of_opencv(file, backend, photographs, yunet_folder, yunet_file):
    state = BACKENDS[backend].available()
    if not state.ok:
        pytest.skip(state.reason)
    options = DetectorOptions(MIN_FACE_PX, model=yunet_folder / file, backend=backend, threads=1)
    detector = create_detector("yunet", options)
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
    for i, side in enumerate((60, 80, 100, 120, 160, 200)):
        left, top = 300 * (i % 3) + 20, 300 * (i // 3) + 20
        frame[top : top + side, left : left + side] = cv2.resize(face, (side, side))
    ours = YuNetDetector(DetectorOptions(MIN_FACE_PX, 0.5, yunet_file)).detect(frame)
    assert len(ours) == 6
    worst = compare([(ours, detect_with_opencv(yunet_file, frame, 0.5))])
    assert worst.iou > 0.999


def test_every_anchor_may_be_a_face(astronaut, create):
    found = create("yunet", min_face_px=1, min_score=0.0).detect(astronaut)
    assert 1 < len(found) <= 1000


def make_outputs(side_px: int = 64) -> dict[str, np.ndarray]:
    return {
        name: np.zeros((1, (side_px // stride) ** 2, HEADS[head]), np.float32)
        for name, (head, stride) in OUTPUTS.items()
    }


def test_boxes_that_are_no_numbers_or_too_large_are_no_faces():
    outputs = make_outputs()
    outputs["cls_8"][:], outputs["obj_8"][:] = 1, 1
    outputs["bbox_8"][0, :3] = np.nan
    outputs["bbox_8"][0, 3, 2:] = 1e30
    outputs["cls_16"][0, :2] = [[np.nan], [2]]
    outputs["obj_16"][0, :2] = 9
    boxes, scores, landmarks = decode(outputs, 64, 0.5)
    assert len(boxes) == len(scores) == len(landmarks) == 65
    assert scores.max() == 1
    frame = np.zeros((64, 64, 3), np.uint8)
    found = to_detections(frame, boxes, scores, landmarks, 1)
    assert all(np.isfinite(face.box_xyxy).all() for face in found)
    assert sum(face.box_xyxy == (0, 0, 64, 64) for face in found) == 1


def test_a_file_must_be_named():
    with pytest.raises(DetectorError, match="--detector-model FILE"):
        create_detector("yunet")


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
        ("no reshape", "bbox_8 does not come from a reshape"),
        ("a cycle", "cls_8 does not come from a reshape"),
        ("another stride", r"expected 64 anchors of 4 values in bbox_8 .* found \[16, 4\]"),
        ("another layer", r"expected 64 anchors of 1 values in cls_8 .* found \[\]"),
        ("another width", r"cannot be run as YuNet \(.*running Conv node"),
    ],
)
def test_damaged_networks_are_refused(model, tmp_path, damage, reason):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(damaged(model, damage).SerializeToString())
    refuse(path, reason)


@pytest.mark.parametrize("file", FILES)
def test_shapes_of_one_size_are_numbers_but_for_the_batch(yunet_folder, file):
    model = YuNetModel(yunet_folder / file).at(96, 160)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Shape", "Gather", "Unsqueeze"})
    for output in model.graph.output:
        head, stride = OUTPUTS[output.name]
        batch, *rest = output.type.tensor_type.shape.dim
        assert not batch.HasField("dim_value")
        assert [size.dim_value for size in rest] == [96 * 160 // stride**2, HEADS[head]]

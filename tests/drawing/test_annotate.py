"""Pictures with boxes and labels: faces stay visible, and text is legible on every frame."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from face_scenes import COUNTS, FRAMES, SCENES, clip

import fer_edge
from fer_edge import annotate
from fer_edge.drawing import annotate as module
from fer_edge.drawing.annotate import MAX_FACES_WITH_BARS, MIN_TEXT_PX, MIN_TEXT_SHARE, smallest_text_px
from fer_edge.drawing.colors import EXPRESSIONS, UNCERTAIN
from fer_edge.drawing.labels import LabelStyle
from fer_edge.errors import DataError
from fer_edge.labels import FERPLUS
from fer_edge.results import Box, Face, FrameResult
from fer_edge.synthetic import render_faces

PROBABILITIES = {"sad": 0.05, "happy": 0.8, "fear": 0.02, "neutral": 0.13}
LANDMARKS = np.array([[30, 40], [60, 40], [45, 55], [32, 70], [58, 70]], np.float32)


def face(box: Box, **fields: Any) -> Face:
    values = {"label": "happy", "probability": 0.8, "probabilities": PROBABILITIES, **fields}
    return Face(box, 0.9, **values)


def result(*faces: Face) -> FrameResult:
    return FrameResult(0, 12.3, 1.5, 2, faces)


def frame(height: int = 120, width: int = 160, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def crowd(boxes: np.ndarray) -> FrameResult:
    """Return a result with all expressions, and some faces without one."""
    faces = []
    for i, box in enumerate(boxes):
        name = FERPLUS[i % 8]
        fields = {"label": None, "reason": "uncertain"} if i % 9 == 5 else {"label": name}
        probabilities = {other: 0.72 if other == name else 0.04 for other in FERPLUS}
        faces.append(face(tuple(box), probabilities=probabilities, **fields))
    return result(*faces)


class Recorder:
    """The labels that were drawn: style, rectangle, size of text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.labels: list[tuple[LabelStyle, tuple[int, int, int, int], int]] = []
        draw = module.draw_label

        def record(canvas: np.ndarray, label: Any, style: LabelStyle, rectangle: Any, em_px: int) -> None:
            self.labels.append((style, rectangle, em_px))
            draw(canvas, label, style, rectangle, em_px)

        monkeypatch.setattr(module, "draw_label", record)

    @property
    def styles(self) -> set[LabelStyle]:
        return {style for style, _, _ in self.labels}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.mark.parametrize("size", FRAMES, ids=str)
@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_faces_stay_visible(scene: Any, count: int, size: tuple[int, int], recorder: Recorder) -> None:
    """Nothing but the lines of boxes is drawn over faces, and labels lie over no other label."""
    boxes = scene(count, size, np.random.default_rng(count))
    picture = frame(size[1], size[0])
    drawn = annotate(picture, crowd(boxes))
    line = max(1, round(smallest_text_px(size[1], size[0]) / 7)) + 2
    visible = np.zeros(picture.shape[:2], bool)
    lines = np.zeros(picture.shape[:2], bool)
    for left, top, right, bottom in clip(boxes, size):
        visible[top:bottom, left:right] = True
        inner = np.s_[top + line : max(bottom - line, 0), left + line : max(right - line, 0)]
        band = np.zeros_like(lines)
        band[max(top - line, 0) : bottom + line, max(left - line, 0) : right + line] = True
        band[inner] = False
        lines |= band
    changed = (drawn != picture).any(axis=2)
    assert not (changed & visible & ~lines).any()
    free = np.ones(picture.shape[:2], bool)
    for _, (left, top, right, bottom), _ in recorder.labels:
        assert free[top:bottom, left:right].all()
        free[top:bottom, left:right] = False
        assert not (visible[top:bottom, left:right]).any()
    assert len(recorder.labels) <= len(clip(boxes, size))


@pytest.mark.parametrize("count", COUNTS)
def test_separate_faces_all_have_labels(count: int, recorder: Recorder) -> None:
    columns = int(np.ceil(np.sqrt(count)))
    cell = np.array([1920, 1080]) / columns
    corner = np.array([(k % columns, k // columns) for k in range(count)]) * cell + 0.3 * cell
    annotate(frame(1080, 1920), crowd(np.hstack([corner, corner + 0.4 * cell])))
    assert len(recorder.labels) == count
    assert recorder.styles == {LabelStyle.FULL} if count < 4 else LabelStyle.TAG not in recorder.styles


@pytest.mark.parametrize("size", [*FRAMES, (1080, 1920), (16, 12), (8000, 500)], ids=str)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_text_is_legible_at_every_resolution(size: tuple[int, int], share: float, recorder: Recorder) -> None:
    side = share * min(size)
    annotate(frame(size[1], size[0]), result(face((size[0] / 3, 1, size[0] / 3 + side, 1 + side))))
    for _, _, em_px in recorder.labels:
        assert em_px >= MIN_TEXT_PX
        assert em_px >= int(MIN_TEXT_SHARE * min(size))
    assert bool(recorder.labels) == (size != (16, 12))


def test_text_grows_with_the_face(recorder: Recorder) -> None:
    for side in (60, 200, 400, 600, 900):
        annotate(frame(1000, 3000), result(face((50, 50, 50 + side, 50 + side))))
    ems = [em_px for _, _, em_px in recorder.labels]
    assert ems[0] == ems[1] < ems[2] < ems[3] == ems[4]
    assert 1.8 * ems[0] < ems[4] <= 2 * ems[0]


def test_many_faces_and_small_ones_have_a_line(recorder: Recorder) -> None:
    def styles(count: int, side: float) -> set[LabelStyle]:
        recorder.labels.clear()
        boxes = np.array([(150 + 500 * (k % 5), 60 + 500 * (k // 5)) for k in range(count)], float)
        annotate(frame(1400, 2600), crowd(np.hstack([boxes, boxes + side])))
        assert len(recorder.labels) == count
        return recorder.styles

    assert styles(MAX_FACES_WITH_BARS, 200) == {LabelStyle.FULL}
    assert styles(MAX_FACES_WITH_BARS + 1, 200) == {LabelStyle.LINE}
    assert styles(2, 40) == {LabelStyle.LINE}


def test_a_large_face_has_bars_beside_a_small_one(recorder: Recorder) -> None:
    annotate(frame(1080, 1920), result(face((100, 100, 400, 500)), face((1500, 700, 1540, 750))))
    assert [style for style, _, _ in recorder.labels] == [LabelStyle.FULL, LabelStyle.LINE]


def test_where_lines_find_no_place_there_are_names_then_tags_then_boxes(recorder: Recorder) -> None:
    """Tall faces side by side, with less and less between them."""
    seen = []
    for gap in (110, 75, 45, 5):
        recorder.labels.clear()
        faces = [face((x, 0, x + 60, 400), probability=0.72) for x in range(0, 8 * (60 + gap), 60 + gap)]
        annotate(frame(400, round(faces[-1].box_xyxy[2])), result(*faces))
        seen.append([style for style, _, _ in recorder.labels])
    assert seen == [[LabelStyle.LINE] * 8, [LabelStyle.NAME] * 8, [LabelStyle.TAG] * 8, []]


def test_a_face_that_fills_the_frame_has_a_box_alone(recorder: Recorder) -> None:
    drawn = annotate(frame(), result(face((0, 0, 160, 120))))
    assert not recorder.labels
    assert (drawn[30:90, 30:130] == 90).all()
    assert (drawn[0, 20:140] != 90).any()


def test_the_box_has_the_colour_of_the_expression() -> None:
    picture = frame(400, 400)
    drawn = annotate(picture, result(face((100, 50, 260, 210)), face((300, 50, 380, 130), label=None)))
    assert (drawn[50, 105:255] == EXPRESSIONS["happiness"]).all()
    assert (drawn[55:205, 100] == EXPRESSIONS["happiness"]).all()
    assert (drawn[50, 305:375] == UNCERTAIN).all()


def test_landmarks_are_drawn_on_request() -> None:
    picture = frame(400, 400)
    shown = result(face((100, 50, 260, 210), landmarks=LANDMARKS + 120))
    assert (annotate(picture, shown)[160, 150] == 90).all()
    assert (annotate(picture, shown, landmarks=True)[160, 150] == EXPRESSIONS["happiness"]).all()


def test_attention_covers_what_the_network_saw() -> None:
    heat = np.array([[0, 1 / 3], [0.5, 1]], np.float32)
    seen = face((40.0, 40.0, 80.0, 80.0), attention=heat, crop_xyxy=(30.0, 30.0, 90.0, 90.0))
    changed = (annotate(frame(200, 200), result(seen)) != 90).any(axis=2)
    assert changed[70:84, 85:90].all()  # hot, in the crop and beyond the box
    assert not changed[:30].any()
    assert not changed[:80, 91:].any()


def test_landmarks_that_are_no_numbers_are_left_out() -> None:
    points = np.array([[150, 160], [np.nan, 5], [np.inf, 5], [5, -np.inf], [170, 160]], np.float32)
    drawn = annotate(frame(400, 400), result(face((100, 50, 260, 210), landmarks=points)), landmarks=True)
    assert (drawn[160, [150, 170]] == EXPRESSIONS["happiness"]).all()


def test_attention_is_drawn_under_the_label() -> None:
    picture = frame(400, 400)
    hot = np.ones((2, 2), np.float32)
    shown = result(face((100, 50, 260, 210), attention=hot, crop_xyxy=(80.0, 30.0, 280.0, 380.0)))
    drawn = annotate(picture, shown)
    plain = annotate(picture, result(face((100, 50, 260, 210))))
    assert (drawn[120, 180] != 90).any()
    assert (drawn[216:230, 110:200] == plain[216:230, 110:200]).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 30), (120, 160), (30, 600)])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 3, 3), (-40, -40, 20, 20), (140, 100, 200, 180), (-500, -500, 900, 900), (-1e9, 0, 1e12, 9), (float("-inf"), 0, float("inf"), 9), (5, 5, 5, 5), (50, 50, 10, 10)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("landmarks", [False, True])
def test_any_box_on_any_frame(size: tuple[int, int], box: Box, landmarks: bool) -> None:
    picture = frame(*size)
    faces = (
        face(box, landmarks=np.full((5, 2), 1e10)),
        face(box, label=None, reason="too_small", probabilities={}),
    )
    drawn = annotate(picture, result(*faces), landmarks=landmarks)
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    assert (drawn != picture).any() == bool(clip(np.array([box]), size[::-1]))
    assert (picture == 90).all()


def test_a_box_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected a box of four numbers, found \(0\.0, nan, 5\.0, 5\.0\)"):
        annotate(frame(), result(face((0, float("nan"), 5, 5))))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((48, 64, 3), np.uint16), np.zeros((48, 64, 3), np.float32), np.zeros((48, 64, 4), np.uint8), np.zeros((0, 64, 3), np.uint8), None, 7],
    ids=["16 bits", "float", "alpha", "empty", "none", "number"],
)  # fmt: skip
def test_other_frames_are_refused(bad: Any) -> None:
    with pytest.raises(DataError, match="expected .*, found .*Fix: "):
        annotate(bad, result(face((1, 1, 20, 20))))


@pytest.mark.parametrize("shape", [(200, 300), (200, 300, 1)], ids=str)
def test_gray_frames_get_coloured_labels(shape: tuple[int, ...]) -> None:
    gray = np.full(shape, 90, np.uint8)
    shown = result(face((20, 20, 80, 80)))
    np.testing.assert_array_equal(annotate(gray, shown), annotate(frame(200, 300), shown))
    assert (gray == 90).all()


def test_a_frame_without_faces_is_a_copy() -> None:
    picture = frame()
    drawn = annotate(picture, result())
    np.testing.assert_array_equal(drawn, picture)
    assert not np.shares_memory(drawn, picture)


def test_views_are_drawn_on_a_copy() -> None:
    picture = frame(200, 300)[:, ::-1]
    assert (annotate(picture, result(face((20, 20, 80, 80)))) != picture).any()
    assert (picture == 90).all()


def test_a_result_draws_itself() -> None:
    picture = render_faces(1, seed=3, side=256)[0]
    shown = result(face((60, 40, 180, 200)))
    np.testing.assert_array_equal(shown.annotate(picture), annotate(picture, shown))
    np.testing.assert_array_equal(
        shown.annotate(picture, landmarks=True), annotate(picture, shown, landmarks=True)
    )


def test_results_load_opencv_when_they_are_drawn() -> None:
    code = (
        "import sys, fer_edge.results as r; print('cv2' in sys.modules); import numpy as np; "
        "r.FrameResult(0, 0.0, 0.0, 0, ()).annotate(np.zeros((9, 9, 3), np.uint8)); print('cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_public_name_is_this_function() -> None:
    assert fer_edge.annotate is module.annotate

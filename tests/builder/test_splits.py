"""Faces are split before anything is measured; calibration uses no compared face and no copy of one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.builder.faces import Sources, load_sources
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.splits import FEW_CALIBRATING, MIN_MEASURED, Counts, Split, split_faces
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError
from fer_edge.spec import CropRule
from fer_edge.synthetic import generate_noise, render_faces

COUNTS = Counts(512, 64, 128)
RULE = CropRule()


def data(images: np.ndarray | Sequence[np.ndarray], name: str = "own", labelled: bool = False) -> FaceDataset:
    stacked = images if isinstance(images, np.ndarray) else np.stack(images)
    labels = np.tile(np.float32([0, 1]), (len(stacked), 1)) if labelled else None
    return FaceDataset(name, stacked, labels, ("sad", "happy") if labelled else (), are_crops=True)


def split(
    calibration: FaceDataset | None, evaluation: FaceDataset | None = None, counts: Counts = COUNTS
) -> Split:
    return split_faces(Sources(calibration, evaluation), counts, RULE)


def sizes(found: Split) -> tuple[int, ...]:
    parts = (found.calibrating, found.held_out, found.comparing)
    return tuple(0 if part is None else len(part) for part in parts)


def pixels(faces: FaceDataset | None) -> np.ndarray:
    """Return decoded pixels at 24×24, centred and of norm 1: an independent similarity measure."""
    if faces is None or not len(faces):
        return np.zeros((0, 576))
    rows = []
    for face in faces:
        gray = face if face.ndim == 2 else cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
        row = cv2.resize(gray, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
        rows.append((row - row.mean()) / np.linalg.norm(row - row.mean()))
    return np.stack(rows)


def assert_apart(found: Split, most: float = 0.985) -> None:
    """Assert that no face of a part is nearly equal to one of another part, pixel by pixel."""
    parts = [pixels(part) for part in (found.calibrating, found.held_out, found.comparing)]
    for a, b in itertools.combinations(parts, 2):
        if len(a) and len(b):
            assert (a @ b.T).max() < most
    assert found.summary["overlap"] == 0


@pytest.fixture(scope="module")
def thousand() -> np.ndarray:
    """Pictures with the spectrum of photographs, which are enough for a split and faster than rendered faces."""
    return np.stack(
        [cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA) for image in generate_noise(1000, 77)]
    )


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        (1000, (512, 64, 128)),
        (704, (512, 64, 128)),
        (512, (320, 64, 128)),
        (100, (63, 12, 25)),
        (40, (25, 5, 10)),
    ],
)
def test_every_face_has_one_purpose(thousand: np.ndarray, pictures: int, expected: tuple[int, ...]) -> None:
    found = split(data(thousand[:pictures]))
    counts = tuple(max(n, MIN_MEASURED) if i else n for i, n in enumerate(expected))
    assert sizes(found) == counts
    for name, n, size in zip(("calibrating", "held_out", "comparing"), expected, counts, strict=True):
        assert found.summary[name]["distinct"] == size
        assert found.summary[name]["generated"] == size - n
    assert_apart(found)
    assert any("to calibrate on" in text for text in found.warnings) == (expected[0] < FEW_CALIBRATING)
    assert [list(map(bytes, part)) for part in (found.calibrating, found.comparing)] == [
        list(map(bytes, part))
        for again in [split(data(thousand[:pictures]))]
        for part in (again.calibrating, again.comparing)
    ]


@pytest.mark.parametrize(("calibrating", "expected"), [(6, (6, 64, 128)), (650, (650, 64, 128))])
def test_the_counts_that_are_asked_for_are_given_where_there_are_enough(
    thousand: np.ndarray, calibrating: int, expected: tuple[int, ...]
) -> None:
    assert sizes(split(data(thousand), counts=Counts(calibrating, 64, 128))) == expected


def test_five_black_pictures_are_refused(tmp_path: Path) -> None:
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((48, 48, 3), np.uint8))
    sources = load_sources(BuildOptions(calibration_data=tmp_path))
    with pytest.raises(DataError, match=r"5 of 5 pictures of .* have hardly any contrast.*0\.png \(0\.0\)"):
        split_faces(sources, COUNTS, RULE)
    with pytest.raises(DataError, match="5 of 5 pictures"):  # in the comparison data too
        split(data(render_faces(30)), load_dataset(tmp_path))


def test_cards_of_one_grey_are_refused_and_dark_faces_are_not(thousand: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    cards = [
        jpeg(np.clip(rng.normal(level, 2, (48, 48)), 0, 255).astype(np.uint8)) for level in (0, 128, 250)
    ]
    gray = [cv2.cvtColor(face, cv2.COLOR_BGR2GRAY) for face in thousand[:9]]
    with pytest.raises(DataError, match=r"3 of 12 pictures of own .*image \d+ of own \("):
        split(data([*gray, *cards]))
    contrast = np.array([face.std() for face in gray])
    dark = [(face * (6 / max(c, 6))).astype(np.uint8) for face, c in zip(gray, contrast, strict=True)]
    assert split(data(dark)).summary["pictures"]["own"]["flat"] == 0


def test_one_flat_picture_of_many_is_left_out_and_counted(thousand: np.ndarray) -> None:
    found = split(data(np.concatenate([thousand[:150], np.full((1, 48, 48, 3), 90, np.uint8)])))
    assert found.summary["pictures"]["own"]["flat"] == 1
    assert sum(found.summary[part]["faces"] for part in ("calibrating", "held_out", "comparing")) == 150
    assert any("hardly any contrast in 1 of 151 pictures of own" in text for text in found.warnings)


def test_one_picture_is_compared_on_generated_faces(thousand: np.ndarray) -> None:
    found = split(data(thousand[:1]))
    assert sizes(found) == (1, 16, 16)
    assert found.comparing.name == "16 generated images (rendered)"
    assert found.summary["comparing"]["generated"] == 16
    assert [text.split(":")[0] for text in found.warnings] == [
        "expected at least 100 distinct faces of own to calibrate on, found 1, so INT8 may fail on other faces. Fix",
        "a calibration is chosen on 16 generated images (rendered)",
        "INT8 is compared on 16 generated images (rendered)",
    ]
    assert_apart(found)


def jpeg(image: np.ndarray, quality: int = 70) -> np.ndarray:
    return cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_UNCHANGED
    )


def test_copies_count_once(thousand: np.ndarray, tmp_path: Path) -> None:
    """Forty pictures, of which twenty are copies of the others: as JPEG, larger, mirrored or unchanged."""
    for i, face in enumerate(thousand[:20]):
        copy = (face, cv2.resize(face, (140, 140)), face[:, ::-1], cv2.resize(face, (33, 33)))[i % 4]
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), face)
        cv2.imwrite(str(tmp_path / f"{i:02} copy.jpg"), copy)
    found = split(load_dataset(tmp_path))
    counted = [found.summary[part] for part in ("calibrating", "held_out", "comparing")]
    assert [part["distinct"] - part["generated"] for part in counted] == [13, 2, 5]
    assert found.summary["pictures"][tmp_path.name]["repeated"] == 20
    assert found.comparing.name == f"5 faces of {tmp_path.name} and 11 generated images (rendered)"
    assert_apart(found)


def test_copies_of_compared_faces_do_not_calibrate(thousand: np.ndarray) -> None:
    copies = np.stack([jpeg(face, 60) for face in thousand[:30]])
    found = split(data(np.concatenate([copies, thousand[100:180]])), data(thousand[:60], "compared", True))
    assert sizes(found) == (64 + 6, 16, 60)
    assert found.summary["pictures"]["own"]["in_comparison"] == 30
    assert_apart(found)


def test_the_same_data_cannot_calibrate_and_be_compared(thousand: np.ndarray) -> None:
    faces = data(thousand[:50], "both", True)
    advice = r"no face of both is left to calibrate on, since all 50 are faces of the comparison data both.*Fix: .*leave --eval-data out"
    with pytest.raises(DataError, match=advice):
        split(faces, faces)
    assert_apart(split(faces))  # the remedy of the message


def test_few_labelled_faces_are_filled_up_without_labels(thousand: np.ndarray) -> None:
    found = split(data(thousand[:150]), data(thousand[200:208], "eight", True))
    assert found.comparing.name == "8 faces of eight and 8 generated images (rendered)"
    assert found.comparing.labels.sum(axis=1).tolist() == [1.0] * 8 + [0.0] * 8
    assert len(found.warnings) == 1
    copies = data(np.repeat(thousand[:1], 40, axis=0), "copies", True)
    summary = dict(split(data(thousand[1:120]), copies).summary["comparing"])
    assert len(summary.pop("sha256")) == 64
    assert summary == {
        "data": "40 faces of copies and 15 generated images (rendered)",
        "faces": 55,
        "distinct": 16,
        "generated": 15,
        "completed": True,
    }


def test_generated_faces_that_were_given_are_not_generated_again() -> None:
    """A user's folder may hold the same generated images that would fill up the comparison."""
    found = split(data(np.concatenate([render_faces(12, seed) for seed in (0, 1, 2)])))
    assert min(sizes(found)[1:]) == MIN_MEASURED
    assert_apart(found)


def test_without_data_all_faces_are_generated() -> None:
    found = split(None, counts=Counts(20, 6, 4))
    assert sizes(found) == (20, 6, 16)
    assert {found.summary[part]["generated"] for part in ("calibrating", "comparing")} == {20, 16}
    assert found.summary["pictures"] == {}
    assert_apart(found)
    nothing = split(None, counts=Counts(0, 0, 0))
    assert (sizes(nothing), nothing.warnings) == ((0, 0, 0), ())


def test_the_overlap_with_ranges_that_ship_is_unknown(thousand: np.ndarray) -> None:
    sources, counts = Sources(None, data(thousand[:20], "theirs", True)), Counts(0, 0, 128)
    found = split_faces(sources, counts, RULE, shipped_ranges="FER+ Training")
    assert found.summary["overlap"] is None
    assert any("measured on FER+ Training, which may contain faces of theirs" in w for w in found.warnings)
    generated = split_faces(Sources(None, None), counts, RULE, shipped_ranges="FER+ Training")
    assert (generated.summary["overlap"], generated.warnings) == (0, ())


@pytest.mark.slow
def test_the_splits_of_fer2013_share_faces_and_the_parts_do_not(shared: Path) -> None:
    """No face of PublicTest that is in Training too is used for calibration."""
    path = shared / "data/fer2013/fer2013.csv.gz"
    training, public = (load_dataset(path, split, "fer2013") for split in ("Training", "PublicTest"))
    digests = [bytes(face) for face in public]
    twins = [i for i, face in enumerate(training) if bytes(face) in set(digests)]
    assert len(twins) > 100
    calibration = training.subset([*twins, *range(2000, 3000)])
    found = split(calibration, public)
    assert sizes(found) == (512, 64, len(public))
    compared = set(digests)
    assert not [
        face for part in (found.calibrating, found.held_out) for face in part if bytes(face) in compared
    ]
    assert found.summary["overlap"] == 0
    assert found.summary["pictures"]["FER2013 Training"]["in_comparison"] > 100

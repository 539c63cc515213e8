"""The renderer: repeatable, lit like the background, exact masks, and robust to hostile input."""

from __future__ import annotations

import dataclasses
import gzip
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, UsageError
from fer_edge.export.training.data.renderer import RenderedFace, RenderedFaces, RenderOptions
from fer_edge.synthetic.drawn import generate_faces

CLASSES = ("neutral", "happiness", "surprise")
PLAIN = RenderOptions(
    change_probability=0, permutation_probability=0, clahe_probability=0, blur_probability=0
)
STILL = dataclasses.replace(PLAIN, scale=0, rotation_deg=0, translation=0, warp=0)
COUNT = 12


def dataset(images: np.ndarray, labels: list[int] | None = None) -> FaceDataset:
    chosen = labels if labels is not None else [i % len(CLASSES) for i in range(len(images))]
    return FaceDataset("drawn", images, np.eye(len(CLASSES), dtype=np.float32)[chosen], CLASSES, True)


@pytest.fixture(scope="module")
def faces() -> FaceDataset:
    return dataset(generate_faces(COUNT, seed=3, side=64))


def flat(gray: int, side: int = 300) -> np.ndarray:
    return np.full((side, side, 3), gray, np.uint8)


def lightness(pixels_rgb: np.ndarray) -> float:
    """Mean CIELab L of RGB uint8 pixels, after the CIE's formulas."""
    values = pixels_rgb.reshape(-1, 3) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.212671, 0.715160, 0.072169]
    return float(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y).mean())


def same(a: RenderedFace, b: RenderedFace) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_picture_depends_on_seed_and_index_alone(faces: FaceDataset) -> None:
    first, second, other = RenderedFaces(faces), RenderedFaces(faces), RenderedFaces(faces, seed=1)
    backwards = [first.render(i) for i in reversed(range(8))][::-1]
    assert all(same(second.render(i), backwards[i]) for i in range(8))
    assert not any(same(other.render(i), backwards[i]) for i in range(8))
    assert not same(first.render(0), first.render(len(CLASSES)))


def test_shapes_and_types(faces: FaceDataset) -> None:
    for side in (64, 128):
        picture = RenderedFaces(faces, options=RenderOptions(side_px=side))[5]
        assert picture.image.shape == picture.target.shape == (side, side, 3)
        assert picture.image.dtype == picture.target.dtype == np.uint8
        assert picture.mask.shape == (side, side)
        assert picture.mask.dtype == bool
        assert 0.02 < picture.mask.mean() < 0.98


def test_the_target_is_the_picture_inside_the_mask_and_black_outside(faces: FaceDataset) -> None:
    for color in ("rgb", "gray"):
        rendered = RenderedFaces(faces, options=dataclasses.replace(PLAIN, color=color))
        for picture in rendered:
            assert (picture.target[~picture.mask] == 0).all()
            assert (picture.target[picture.mask] == picture.image[picture.mask]).all()
            assert picture.target[picture.mask].max(axis=1).min() > 0


def test_colour_changes_touch_the_picture_only(faces: FaceDataset) -> None:
    changed = RenderedFaces(faces, options=dataclasses.replace(RenderOptions(), change_probability=1))
    for plain, picture in zip(RenderedFaces(faces, options=PLAIN), changed, strict=True):
        assert np.array_equal(plain.target, picture.target)
        assert np.array_equal(plain.mask, picture.mask)
        assert not np.array_equal(plain.image, picture.image)


@pytest.mark.parametrize("name", ["permutation_probability", "clahe_probability", "blur_probability"])
def test_each_change_has_its_effect(faces: FaceDataset, name: str) -> None:
    before = RenderedFaces(faces, options=PLAIN)
    after = RenderedFaces(faces, options=dataclasses.replace(PLAIN, **{name: 1.0}))
    pairs = [(before.render(i).image.astype(int), after.render(i).image.astype(int)) for i in range(12)]
    if name == "permutation_probability":
        assert all(np.array_equal(np.sort(a, axis=2), np.sort(b, axis=2)) for a, b in pairs)
        assert any(not np.array_equal(a, b) for a, b in pairs)
    elif name == "clahe_probability":
        assert all(lightness(a) != lightness(b) for a, b in pairs)
        assert np.mean([b.std() / a.std() for a, b in pairs]) > 1.05
    else:
        edges = [[np.abs(np.diff(x, axis=1)).mean() for x in pair] for pair in pairs]
        assert all(b < a for a, b in edges)


@pytest.mark.parametrize(("strength", "spread"), [("brightness", 64), ("contrast", 40), ("gamma", 30)])
def test_values_change_no_more_than_stated(faces: FaceDataset, strength: str, spread: int) -> None:
    none = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0}
    options = dataclasses.replace(PLAIN, change_probability=1, **{**none, strength: 0.25})
    changes = [
        np.abs(a.image.astype(int) - b.image).max()
        for a, b in zip(
            RenderedFaces(faces, options=PLAIN), RenderedFaces(faces, options=options), strict=True
        )
    ]
    assert 3 < max(changes) <= spread


@pytest.mark.parametrize("gray", [70, 120, 170])
def test_the_face_gets_the_lightness_of_the_background(gray: int) -> None:
    # A face of L ≈ 54 with shading; the goals are 29, 50 and 70, all within a ratio of 0.5 to 1.5.
    shade = np.linspace(100, 160, 64)[None, :, None]
    skin = np.clip(shade * [0.8, 1.0, 1.2], 0, 255).astype(np.uint8).repeat(64, axis=0)
    rendered = RenderedFaces(dataset(skin[None]), [flat(gray)], PLAIN)
    goal = lightness(flat(gray, 2))
    for i in range(6):
        picture = rendered.render(i)
        assert lightness(picture.image[~picture.mask]) == pytest.approx(goal, abs=0.1)
        assert lightness(picture.target[picture.mask]) == pytest.approx(goal, abs=1.5)


@pytest.mark.parametrize(
    ("face", "background", "expected"),
    [
        (128, 255, 1.5),  # L 53.6 × 1.5 = 80.4, not 100
        (128, 0, 0.5),
        (250, 255, None),  # clipped at 90
        (20, 0, None),  # clipped at 10
    ],
)
def test_the_lightness_changes_within_its_limits(face: int, background: int, expected: float | None) -> None:
    picture = RenderedFaces(dataset(flat(face, 64)[None]), [flat(background)], STILL).render(0)
    found = lightness(picture.target[picture.mask])
    before = lightness(flat(face, 2))
    goal = before * expected if expected else (90 if face > 128 else 10)
    assert found == pytest.approx(goal, abs=0.6)


def test_classes_take_turns_and_absent_ones_are_left_out(faces: FaceDataset) -> None:
    labels = [picture.label for picture in RenderedFaces(faces)]
    assert labels == [0, 1, 2] * 4
    rare = dataset(generate_faces(5), [2, 2, 0, 2, 2])
    rendered = RenderedFaces(rare, count=6)
    assert [picture.label for picture in rendered] == [0, 2, 0, 2, 0, 2]
    assert rendered.class_names == CLASSES


def test_the_face_shown_is_of_the_class_stated() -> None:
    shades = (60, 120, 180)
    images = np.stack([flat(shade, 32) for shade in shades])
    whole = dataclasses.replace(STILL, luminance_ratio=(1.0, 1.0))
    rendered = RenderedFaces(dataset(images), [flat(100)], whole)
    for i in range(6):
        picture = rendered.render(i)
        assert abs(int(np.median(picture.target[picture.mask])) - shades[picture.label]) <= 1


def test_colours_are_rgb() -> None:
    red_bgr = np.zeros((1, 32, 32, 3), np.uint8)
    red_bgr[..., 2] = 200
    blue_bgr = np.zeros((300, 300, 3), np.uint8)
    blue_bgr[..., 0] = 200
    picture = RenderedFaces(dataset(red_bgr), [blue_bgr], STILL).render(0)
    assert picture.image[picture.mask].argmax(axis=1).tolist() == [0] * int(picture.mask.sum())
    assert picture.image[~picture.mask].argmax(axis=1).tolist() == [2] * int((~picture.mask).sum())


def test_gray_pictures_have_three_equal_channels(faces: FaceDataset) -> None:
    options = dataclasses.replace(RenderOptions(), side_px=64, color="gray", clahe_probability=1)
    for picture in RenderedFaces(faces, options=options):
        for pixels in (picture.image, picture.target):
            assert (pixels == pixels[:, :, :1]).all()


def test_geometry_stays_within_its_limits() -> None:
    """Checks the angle of a thin bar, and the centre and size of the ellipse."""
    rotated = dataclasses.replace(STILL, rotation_deg=45, ellipse_width=0.3)
    angles = []
    for i in range(20):
        mask = RenderedFaces(dataset(flat(120)[None]), [flat(120)], rotated).render(i).mask
        rows, columns = np.nonzero(mask)
        axes = np.linalg.eigh(np.cov(rows, columns))[1][:, 1]
        angles.append(np.degrees(np.arctan2(axes[1], axes[0])))
    tilt = np.abs((np.array(angles) + 90) % 180 - 90)
    assert 25 < tilt.max() <= 46

    moved = dataclasses.replace(STILL, translation=0.3, ellipse_width=0.2, ellipse_height=0.2)
    middles = []
    for i in range(20):
        mask = RenderedFaces(dataset(flat(120)[None]), [flat(120)], moved).render(i).mask
        middles.append(np.argwhere(mask).mean(axis=0) / 128 - 0.5)
    assert 0.2 < np.abs(middles).max() <= 0.31

    scaled = dataclasses.replace(STILL, scale=0.2, ellipse_width=0.5, ellipse_height=0.5)
    pictures = RenderedFaces(dataset(flat(120)[None]), [flat(120)], scaled, count=20)
    heights = np.array([np.ptp(np.nonzero(picture.mask)[0]) + 1 for picture in pictures])
    # 0.5 · 256 − 6 (erosion) of 276 pixels at 128 are 56.6; ± 20 % of the 128 pixels are ± 11.9.
    assert 44 <= heights.min() < 52
    assert 61 < heights.max() <= 69


def test_a_cut_out_face_keeps_its_outline() -> None:
    face = np.zeros((256, 256, 3), np.uint8)
    cv2.rectangle(face, (60, 40), (190, 220), (90, 120, 150), -1)
    face[120:124, 100:104] = 0  # a black pupil is part of the face
    options = dataclasses.replace(STILL, cutout="non-black")
    picture = RenderedFaces(dataset(face[None]), [flat(120)], options).render(0)
    rows, columns = np.nonzero(picture.mask)
    scale = 128 / 276
    # Padding 10, erosion 3.
    assert rows.min() == pytest.approx((40 + 13) * scale, abs=1.5)
    assert rows.max() == pytest.approx((220 + 7) * scale, abs=1.5)
    assert columns.min() == pytest.approx((60 + 13) * scale, abs=1.5)
    assert picture.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.98


def test_black_faces(faces: FaceDataset) -> None:
    black = dataset(np.zeros((2, 40, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"face 0 of drawn.* is empty"):
        RenderedFaces(black, options=RenderOptions(cutout="non-black")).render(0)
    picture = RenderedFaces(black, options=STILL).render(0)
    assert lightness(picture.target[picture.mask]) == pytest.approx(10, abs=0.6)  # the lowest L


def test_a_cut_out_that_erosion_removes_is_an_error() -> None:
    speck = np.zeros((1, 256, 256), np.uint8)
    speck[0, 128, 128] = 200
    with pytest.raises(DataError, match="black or too small. Fix: leave it out"):
        RenderedFaces(dataset(speck), options=RenderOptions(cutout="non-black")).render(0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (3, 700), (500, 2, 3)])
def test_faces_of_any_shape_fill_the_mask(shape: tuple[int, ...]) -> None:
    picture = RenderedFaces(dataset(np.full((1, *shape), 130, np.uint8)), [flat(90)]).render(0)
    assert picture.mask.any()
    assert picture.image.shape == (128, 128, 3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 30), (500, 9, 3), (276, 276), (300, 2000, 3)])
def test_backgrounds_of_any_shape_cover_the_picture(faces: FaceDataset, shape: tuple[int, ...]) -> None:
    picture = RenderedFaces(faces, [np.full(shape, 77, np.uint8)], PLAIN).render(0)
    assert (picture.image[~picture.mask] == 77).all()


def test_backgrounds_come_from_a_folder(faces: FaceDataset, tmp_path: Path) -> None:
    folder = tmp_path / "walls"
    folder.mkdir()
    with pytest.raises(DataError, match="no background images"):
        RenderedFaces(faces, folder)
    cv2.imwrite(str(folder / "a.png"), flat(200))
    cv2.imwrite(str(folder / "b.png"), flat(50))
    rendered = RenderedFaces(faces, folder, PLAIN)
    assert {int(picture.image[~picture.mask].mean()) for picture in rendered} == {50, 200}
    assert rendered.name == "drawn rendered on images of walls"
    (folder / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"b\.png"):
        list(RenderedFaces(faces, folder))


def test_generated_backgrounds_are_named_and_varied(faces: FaceDataset) -> None:
    rendered = RenderedFaces(faces, options=PLAIN)
    assert rendered.name == "drawn rendered on generated noise"
    outside = [picture.image[~picture.mask].astype(float) for picture in rendered]
    assert np.ptp([pixels.mean() for pixels in outside]) > 50
    assert min(pixels.std() for pixels in outside) > 5


def test_a_batch_holds_the_pictures_as_tensors(faces: FaceDataset) -> None:
    rendered = RenderedFaces(faces, options=RenderOptions(side_px=64))
    beyond = len(rendered) + 7
    images, targets, masks, labels = rendered.batch(torch.tensor([4, beyond]))
    assert images.shape == targets.shape == (2, 3, 64, 64)
    assert images.dtype == targets.dtype == torch.uint8
    assert masks.shape == (2, 64, 64)
    assert masks.dtype == torch.bool
    assert labels.tolist() == [4 % 3, beyond % 3]
    single = rendered.render(beyond)
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), single.image)
    assert np.array_equal(targets[1].permute(1, 2, 0).numpy(), single.target)
    assert np.array_equal(masks[1].numpy(), single.mask)
    with pytest.raises(UsageError, match="at least one index"):
        rendered.batch([])


def test_indices_outside_the_data_set(faces: FaceDataset) -> None:
    rendered = RenderedFaces(faces, count=2)
    assert len(list(rendered)) == len(rendered) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError):
            rendered[index]
    with pytest.raises(UsageError, match="index must be at least 0"):
        rendered.render(-1)


def test_data_that_cannot_be_rendered_is_refused(faces: FaceDataset) -> None:
    with pytest.raises(DataError, match="Fix: crop the faces first"):
        RenderedFaces(dataclasses.replace(faces, are_crops=False))
    with pytest.raises(DataError, match="no labels"):
        RenderedFaces(dataclasses.replace(faces, labels=None))
    with pytest.raises(DataError, match="holds no faces"):
        RenderedFaces(faces.subset([]))
    with pytest.raises(DataError, match="no background images"):
        RenderedFaces(faces, [])
    with pytest.raises(DataError, match=r"background 0 must be uint8"):
        RenderedFaces(faces, [np.zeros((4, 4, 4), np.uint8)])
    with pytest.raises(DataError, match="is not a folder"):
        RenderedFaces(faces, "no/such/folder")
    with pytest.raises(UsageError, match="seed"):
        RenderedFaces(faces, seed=-1)
    with pytest.raises(UsageError, match="count"):
        RenderedFaces(faces, count=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"side_px": 300}, {"side_px": 4}, {"color": "bgr"}, {"cutout": "square"}, {"ellipse_width": 0.0},
        {"ellipse_height": 1.2}, {"scale": 1.0}, {"warp": 0.5}, {"rotation_deg": -1}, {"translation": -0.1},
        {"luminance_ratio": (1.5, 0.5)}, {"luminance_ratio": (0, 1)}, {"luminance_range": (10, 101)},
        {"gamma": 1.0}, {"blur_probability": 1.5}, {"brightness": float("nan")},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="invalid render options"):
        RenderOptions(**wrong)


def test_real_faces_are_rendered(shared: Path, tmp_path: Path) -> None:
    table = tmp_path / "fer2013.csv"
    with gzip.open(shared / "data" / "fer2013" / "fer2013.csv.gz", "rt") as rows:
        table.write_text("".join(islice(rows, 301)))
    source = load_dataset(table, labels="fer2013")
    rendered = RenderedFaces(source, options=RenderOptions(side_px=64, color="gray"), count=70)
    present = np.unique(source.targets).tolist()
    assert [picture.label for picture in rendered] == [present[i % len(present)] for i in range(70)]
    assert min(picture.mask.mean() for picture in rendered) > 0.05

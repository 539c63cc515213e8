"""Views for test-time augmentation: the same pixels as OpenCV's warp, as a constant grid."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fer_edge.export.networks.views import View, draw_views, take_view


@pytest.mark.parametrize("view", [View(False, 0.0), View(True, 0.0), View(False, 23.0), View(True, -30.0)])
def test_a_view_is_what_opencv_makes(view: View) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 48, 64)).astype(np.float32)
    images = np.stack([[cv2.GaussianBlur(plane, (0, 0), 3) for plane in image] for image in images])
    found = take_view(torch.from_numpy(images), view).numpy()
    assert found.shape == images.shape
    matrix = cv2.getRotationMatrix2D((31.5, 23.5), view.rotation_deg, 1)
    for image, seen in zip(images.reshape(-1, 48, 64), found.reshape(-1, 48, 64), strict=True):
        source = np.ascontiguousarray(image[:, ::-1]) if view.flip else image
        expected = cv2.warpAffine(source, matrix, (64, 48))
        # OpenCV rounds positions to 1/32 pixel, which shows at the black edge most.
        assert np.abs(seen - expected).max() < np.ptp(image) / 16 + image.max() / 16
        assert np.abs(seen - expected).mean() < 2e-3


def test_no_rotation_keeps_every_pixel() -> None:
    images = torch.rand(2, 1, 9, 12)
    torch.testing.assert_close(take_view(images, View(False, 0.0)), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(take_view(images, View(True, 0.0)), images.flip(3), rtol=0, atol=1e-5)


def test_draws_are_those_of_the_training_augmentation_and_fixed_by_the_seed() -> None:
    views = draw_views(400, 1234)
    assert views == draw_views(400, 1234)
    assert views[:8] == draw_views(8, 1234)
    assert views != draw_views(400, 1)
    angles = np.array([view.rotation_deg for view in views])
    assert np.abs(angles).max() <= 30
    assert np.abs(angles).max() > 29
    assert abs(angles.mean()) < 3
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    assert draw_views(0, 5) == ()

"""Conversion of network boxes to detections of a frame."""

from __future__ import annotations

import numpy as np

from fer_edge.detection.postprocess import to_detections


def test_to_detections_cuts_boxes_and_drops_what_is_outside():
    frame = np.zeros((100, 200, 3), np.uint8)
    boxes = np.array([[-20, 10, 30, 60], [150, -30, 260, 130], [300, 300, 400, 400], [10, 10, 20, 20]], float)
    found = to_detections(frame, boxes, np.ones(4), None, min_face_px=40)
    assert [face.box_xyxy for face in found] == [(150, 0, 200, 100), (0, 10, 30, 60)]

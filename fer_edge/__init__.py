"""FER-Edge: facial expression recognition on edge devices.

Importing this package loads no heavy dependency; public names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fer_edge._utils.privacy import opt_out
from fer_edge._utils.version import __version__

if TYPE_CHECKING:
    from fer_edge import doctor, models
    from fer_edge.builder import BuildOptions, BuildReport, build
    from fer_edge.bundle import Bundle, open_bundle
    from fer_edge.datasets import load_dataset
    from fer_edge.detection.base import DetectorOptions
    from fer_edge.drawing.annotate import annotate
    from fer_edge.errors import FerEdgeError
    from fer_edge.evaluation.evaluate import evaluate
    from fer_edge.frames import Frame
    from fer_edge.levels import LevelOptions
    from fer_edge.quality import QualityThresholds
    from fer_edge.results import Detection, Event, EventKind, Face, FrameResult, RuntimeState
    from fer_edge.runtime import Runtime, RuntimeOptions, TrackedFrames
    from fer_edge.sources.open import open_source
    from fer_edge.spec import ModelSpec
    from fer_edge.tracking.options import TrackerOptions, TrackingOptions
    from fer_edge.tracking.schedule import ScheduleOptions
    from fer_edge.tracking.smoothing import SmoothingOptions

opt_out()

_HOMES = {
    "BuildOptions": "builder",
    "BuildReport": "builder",
    "build": "builder",
    "Bundle": "bundle",
    "open_bundle": "bundle",
    "DetectorOptions": "detection.base",
    "FerEdgeError": "errors",
    "Detection": "results",
    "Event": "results",
    "EventKind": "results",
    "Face": "results",
    "Frame": "frames",
    "FrameResult": "results",
    "RuntimeState": "results",
    "LevelOptions": "levels",
    "QualityThresholds": "quality",
    "Runtime": "runtime",
    "RuntimeOptions": "runtime",
    "TrackedFrames": "runtime",
    "TrackerOptions": "tracking.options",
    "TrackingOptions": "tracking.options",
    "ScheduleOptions": "tracking.schedule",
    "SmoothingOptions": "tracking.smoothing",
    "ModelSpec": "spec",
    "annotate": "drawing.annotate",
    "evaluate": "evaluation.evaluate",
    "load_dataset": "datasets",
    "open_source": "sources.open",
}
_MODULES = ("doctor", "models")

__all__ = [
    "BuildOptions",
    "BuildReport",
    "Bundle",
    "Detection",
    "DetectorOptions",
    "Event",
    "EventKind",
    "Face",
    "FerEdgeError",
    "Frame",
    "FrameResult",
    "LevelOptions",
    "ModelSpec",
    "QualityThresholds",
    "Runtime",
    "RuntimeOptions",
    "RuntimeState",
    "ScheduleOptions",
    "SmoothingOptions",
    "TrackedFrames",
    "TrackerOptions",
    "TrackingOptions",
    "__version__",
    "annotate",
    "build",
    "doctor",
    "evaluate",
    "load_dataset",
    "models",
    "open_bundle",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fer_edge.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'fer_edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fer_edge.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

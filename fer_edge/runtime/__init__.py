"""Runtime that detects faces in frames and classifies their apparent expression."""

from __future__ import annotations

from fer_edge.runtime.choice import Candidate, Choice
from fer_edge.runtime.options import RuntimeOptions
from fer_edge.runtime.runtime import Runtime
from fer_edge.runtime.stages import STAGES
from fer_edge.runtime.tracked import TrackedFrames

__all__ = ["STAGES", "Candidate", "Choice", "Runtime", "RuntimeOptions", "TrackedFrames"]

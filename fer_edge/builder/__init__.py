"""Weights → bundle. The only room that calls export and calibration."""

from __future__ import annotations

from fer_edge.builder.options import BuildOptions
from fer_edge.builder.pipeline import BuildReport, build
from fer_edge.builder.refusal import REPORT_PAGE

__all__ = ["REPORT_PAGE", "BuildOptions", "BuildReport", "build"]

"""Weights → bundle. The only room that calls export and calibration."""

from __future__ import annotations

from fer_edge.builder.options import BuildOptions
from fer_edge.builder.pipeline import REPORT_PAGE, BuildReport, build

__all__ = ["REPORT_PAGE", "BuildOptions", "BuildReport", "build"]

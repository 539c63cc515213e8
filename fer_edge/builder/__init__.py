"""Build bundles from weights. The only package that calls export and calibration."""

from __future__ import annotations

from fer_edge.builder.options import BuildOptions
from fer_edge.builder.pipeline import BuildReport, build

__all__ = ["BuildOptions", "BuildReport", "build"]

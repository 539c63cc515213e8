"""Checks of this machine, with commands that install what is missing."""

from __future__ import annotations

from fer_edge.doctor.check import Check
from fer_edge.doctor.checks import diagnose

__all__ = ["Check", "diagnose"]

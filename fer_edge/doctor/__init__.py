"""Checks of this machine, with the command that installs each missing part."""

from __future__ import annotations

from fer_edge.doctor.check import Check
from fer_edge.doctor.checks import diagnose

__all__ = ["Check", "diagnose"]

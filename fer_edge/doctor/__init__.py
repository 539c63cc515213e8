"""Tells what this machine can run, and the command for what is missing."""

from __future__ import annotations

from fer_edge.doctor.checks import Check, diagnose

__all__ = ["Check", "diagnose"]

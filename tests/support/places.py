"""Paths of the checkout and of the folder of helpers for programs that tests start."""

from __future__ import annotations

from pathlib import Path

SUPPORT = str(Path(__file__).resolve().parent)
ROOT = Path(__file__).resolve().parents[2]

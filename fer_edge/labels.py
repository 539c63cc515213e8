"""Expression classes: the order each network was trained with, and one vocabulary to compare them.

A network's class order is part of its weights. Two orders are compared by canonical name,
never by index.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from fer_edge.errors import DataError, closest

#: FER+ vote columns without "unknown" and "NF" (Barsoum et al., 2016); also FERAtt's order.
FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
#: FER2013 class indices; also the order of the Residual Masking Network.
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
#: AffectNet without contempt, seven classes: EmotionalDAN's order.
AFFECTNET7 = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
#: AffectNet, eight classes: recommended for Jalal et al.
AFFECTNET8 = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
#: RAF-DB, basic expressions, labels 1 to 7.
RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
#: CK+, labels 0 to 7; neutral is the first frame of a sequence.
CKPLUS = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")

_CANONICAL = {
    "neutral": "neutral", "normal": "neutral",
    "happiness": "happiness", "happy": "happiness", "joy": "happiness", "joyful": "happiness",
    "surprise": "surprise", "surprised": "surprise",
    "sadness": "sadness", "sad": "sadness",
    "anger": "anger", "angry": "anger",
    "disgust": "disgust", "disgusted": "disgust",
    "fear": "fear", "fearful": "fear", "afraid": "fear", "scared": "fear",
    "contempt": "contempt", "contemptuous": "contempt",
}  # fmt: skip
#: Number prefix as in "0_angry" and "1. happy", which sorts folders in class order.
_NUMBER = re.compile(r"[0-9]{1,3}[_.:)\-\s]*(?=[a-z])")
_MAX_CHARS = 40


def canonical(name: str) -> str:
    """Return the canonical (FER+) name of an expression in a usual spelling: ``Angry``, ``0_anger``, ``1. happy``.

    Raises
    ------
    DataError
        If the name is not an expression of the papers.
    """
    key = name.strip().casefold()[: _MAX_CHARS + 1]
    key = _NUMBER.sub("", key, count=1) if _NUMBER.match(key) else key
    try:
        return _CANONICAL[key]
    except KeyError:
        found = name if len(name) <= _MAX_CHARS else name[:_MAX_CHARS] + "…"
        raise DataError(
            f"unknown expression {found!r}, expected one of {', '.join(sorted(_CANONICAL))}{closest(key, _CANONICAL)}. "
            "Fix: correct the name"
        ) from None


def index_map(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Map class indices of ``source`` to ``target``.

    Returns
    -------
    np.ndarray
        ``[len(source)]`` int64; -1 where ``target`` lacks the class.
    """
    positions = {canonical(name): i for i, name in enumerate(target)}
    return np.array([positions.get(canonical(name), -1) for name in source], np.int64)

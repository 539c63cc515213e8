"""Noise with an amplitude that falls with frequency as in photographs."""

from __future__ import annotations

import numpy as np

from fer_edge.synthetic.exposure import SIDE

_FREQUENCY = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
_FREQUENCY[0, 0] = np.inf  # zero mean


def coloured_noise(rng: np.random.Generator, slope: float, channels: int = 1) -> np.ndarray:
    """Return ``[SIDE, SIDE, channels]`` float32, mean 0, standard deviation 1, amplitude ∝ 1 / frequency^slope."""
    white = np.fft.rfft2(rng.standard_normal((channels, SIDE, SIDE)))
    noise = np.fft.irfft2(white * _FREQUENCY**-slope, (SIDE, SIDE)).transpose(1, 2, 0)
    return (noise / noise.std(axis=(0, 1))).astype(np.float32)


def paint_noise(rng: np.random.Generator) -> np.ndarray:
    """Return one image, ``[SIDE, SIDE, 3]`` float32.

    Photographs have slopes slightly above 1 (Field, 1987); face crops, which are smoother, up to 1.8. The channels
    differ little, since most of the variation in photographs is in luminance.
    """
    slope = rng.uniform(1.1, 1.8)
    tint = rng.normal(0, 0.1, 3) + rng.uniform(0.02, 0.2) * coloured_noise(rng, slope, 3)
    return coloured_noise(rng, slope) + tint

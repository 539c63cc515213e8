"""How a runtime works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypedDict

from fer_edge._utils.checks import MAX_THREADS, require_choice, require_flag, require_number, require_whole
from fer_edge.detection.base import DetectorOptions
from fer_edge.engines.build.options import MAX_BATCH, PRECISIONS
from fer_edge.errors import closest
from fer_edge.probabilities import MIN_PROBABILITY, Prior


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime works.

    Attributes
    ----------
    backend : str
        ``auto`` or a key of :data:`fer_edge.backends.BACKENDS`.
    precision : str or None
        That one, or an error. ``None``: what the bundle was built for, or FP32 where that was measured to be faster.
    detector : str
        A key of :data:`fer_edge.detection.DETECTORS`.
    detector_options : DetectorOptions
        Minimum face size, score, weights file.
    min_probability : float
        From 0 to 1. Below, the label is ``None`` with reason ``uncertain``.
    prior : str, mapping or None
        How frequent the classes are where the runtime is used: ``training``, ``balanced``, ``uniform``, or class name →
        probability; ``None`` is the default of the bundle. See :func:`fer_edge.probabilities.make_rule`.
    max_batch : int or None
        Faces per batch; a frame with more takes several. With 1, as for a driver's camera, the network is
        compiled for single faces: up to 5 % faster in OpenVINO. ``None``: 64, or what was measured to be faster.
    threads : int or None
        CPU threads of the network; ``None`` leaves the choice to the backend, or to the measurement.
    dla_core : int or None
        Which deep-learning accelerator of a Jetson computes the network, with backend ``tensorrt``; ``None`` is
        the GPU. Detectors are not given to it.
    gpu_fallback : bool
        Let the GPU compute the layers that the accelerator cannot; else they are an error.
    allow_random : bool
        Accept a bundle whose weights are random.
    attention : bool
        Give :attr:`Face.attention`; the bundle must have been built with ``--attention``.
    self_test : bool
        Compare the network with the reference outputs of its bundle before the first frame. Without it, a backend
        that computes something else here answers as if nothing were wrong; :attr:`Runtime.info` records that.
    tune : bool
        Measure which backend, precision, threads and max_batch, as far as they are left open here, are the fastest:
        once for a bundle and machine, see :mod:`fer_edge.runtime.tune`. Without it, or with ``FER_EDGE_TUNE=0``
        in the environment, the first backend that is available runs the bundle's own precision.
    """

    backend: str = "auto"
    precision: str | None = None
    detector: str = "mtcnn"
    detector_options: DetectorOptions = field(default_factory=DetectorOptions)
    min_probability: float = MIN_PROBABILITY
    prior: Prior | None = None
    max_batch: int | None = None
    threads: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = False
    allow_random: bool = False
    attention: bool = False
    self_test: bool = True
    tune: bool = True

    def __post_init__(self) -> None:
        require_number("min_probability", self.min_probability, 0, 1)
        require_whole("max_batch", self.max_batch, 1, MAX_BATCH, optional=True)
        require_whole("threads", self.threads, 1, MAX_THREADS, optional=True)
        require_choice("precision", self.precision, PRECISIONS, optional=True)
        for name in ("allow_random", "attention", "self_test", "tune"):
            require_flag(name, getattr(self, name))


class RuntimeChanges(TypedDict, total=False):
    """Fields of :class:`RuntimeOptions` as keyword arguments, so that type checkers know their names."""

    backend: str
    precision: str | None
    detector: str
    detector_options: DetectorOptions
    min_probability: float
    prior: Prior | None
    max_batch: int | None
    threads: int | None
    dla_core: int | None
    gpu_fallback: bool
    allow_random: bool
    attention: bool
    self_test: bool
    tune: bool


def changed(options: RuntimeOptions | None, changes: Mapping[str, object]) -> RuntimeOptions:
    """Return ``options``, or the defaults, with ``changes``.

    Raises
    ------
    TypeError
        If a change names no field; the message gives the nearest one.
    """
    names = [field.name for field in fields(RuntimeOptions)]
    for name in changes:
        if name not in names:
            raise TypeError(f"Runtime() got an unexpected keyword argument {name!r}{closest(name, names)}")
    return replace(options or RuntimeOptions(), **changes)  # type: ignore[arg-type]

"""How a runtime works."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from fer_edge._utils.checks import require_flag, require_number
from fer_edge.backends.base import SessionOptions
from fer_edge.detection.base import DetectorOptions
from fer_edge.errors import closest
from fer_edge.probabilities import MIN_PROBABILITY, Prior

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime works.

    Attributes
    ----------
    backend : str
        ``auto`` or a key of :data:`fer_edge.backends.BACKENDS`.
    session : SessionOptions
        How the network uses the machine. Its ``precision``, where it is given, is what runs, or an error; ``None`` is
        what the bundle was built for, or FP32 where that was measured to be faster. A frame with more than ``max_batch``
        faces takes several batches; with 1, as for a driver's camera, the network is compiled for single faces: up to
        5 % faster in OpenVINO. ``None`` is 64, or what was measured to be faster. The measurement also chooses
        ``threads`` where they are left open. Detectors are not given to a DLA.
    detector : str
        A key of :data:`fer_edge.detection.DETECTORS`.
    detector_options : DetectorOptions
        Minimum face size, score, weights file.
    min_probability : float
        From 0 to 1. Below, the label is ``None`` with reason ``uncertain``.
    prior : str, mapping or None
        How frequent the classes are where the runtime is used: ``training``, ``balanced``, ``uniform``, or class name →
        probability; ``None`` is the default of the bundle. See :func:`fer_edge.probabilities.make_rule`.
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
    session: SessionOptions = field(default_factory=SessionOptions)
    detector: str = "mtcnn"
    detector_options: DetectorOptions = field(default_factory=DetectorOptions)
    min_probability: float = MIN_PROBABILITY
    prior: Prior | None = None
    allow_random: bool = False
    attention: bool = False
    self_test: bool = True
    tune: bool = True

    def __post_init__(self) -> None:
        require_number("min_probability", self.min_probability, 0, 1)
        for name in ("allow_random", "attention", "self_test", "tune"):
            require_flag(name, getattr(self, name))


class RuntimeChanges(TypedDict, total=False):
    """Fields of :class:`RuntimeOptions` and of its session as keyword arguments, so that type checkers know their names."""

    backend: str
    session: SessionOptions
    detector: str
    detector_options: DetectorOptions
    min_probability: float
    prior: Prior | None
    allow_random: bool
    attention: bool
    self_test: bool
    tune: bool
    # of the session
    threads: int | None
    precision: str | None
    dla_core: int | None
    gpu_fallback: bool
    max_batch: int | None


def make_options(options: RuntimeOptions | None = None, **changes: Unpack[RuntimeChanges]) -> RuntimeOptions:
    """Return ``options``, or the defaults, with ``changes`` of them and of their session.

    Raises
    ------
    TypeError
        If a change names no field; the message gives the nearest one.
    """
    for name in changes:
        if name not in RuntimeChanges.__annotations__:
            hint = closest(name, RuntimeChanges.__annotations__)
            raise TypeError(f"Runtime() got an unexpected keyword argument {name!r}{hint}")
    given: dict[str, Any] = dict(changes)
    of_session = {
        field.name: given.pop(field.name) for field in fields(SessionOptions) if field.name in given
    }
    made = replace(options or RuntimeOptions(), **given)
    return replace(made, session=replace(made.session, **of_session))

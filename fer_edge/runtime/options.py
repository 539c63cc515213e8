"""Options of a runtime."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from fer_edge._utils.checks import require_flag, require_number
from fer_edge.backends.base import SessionOptions
from fer_edge.detection.base import DEFAULT_DETECTOR, DetectorOptions
from fer_edge.detection.rotation import require_rotation
from fer_edge.errors import UsageError, closest
from fer_edge.levels import LevelOptions
from fer_edge.probabilities import MIN_PROBABILITY, Prior
from fer_edge.quality import QualityThresholds
from fer_edge.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of a runtime.

    Attributes
    ----------
    backend : str
        ``auto`` or a key of :data:`fer_edge.backends.BACKENDS`.
    session : SessionOptions
        Machine resources of the network. A given ``precision`` is used or an error; ``None`` is the precision that
        the bundle was built for, or FP32 if measured to be faster. A frame with more than ``max_batch`` faces takes
        several batches; with 1, as for a driver camera, the network has a static batch of 1: up to 5 % faster in
        OpenVINO. ``None`` is 64, or 1 if measured to be faster. The measurement also chooses ``threads`` if not
        given. Detectors never run on a DLA.
    detector : str
        A key of :data:`fer_edge.detection.DETECTORS`.
    detector_options : DetectorOptions
        Minimum face size, score, weights file.
    rotate : int or str
        Clockwise turn that makes the frames of the camera upright: 0, 90, 180, 270, or ``auto``, which finds it from
        the faces (:class:`fer_edge.detection.rotation.Mounting`). It is here and not in the detector's options, since
        the network must see upright faces too. Results are in pixels of the frame as it was given.
    min_probability : float
        From 0 to 1. Below it, the label is ``None`` with reason ``uncertain``.
    quality : QualityThresholds
        Limits of size, light, sharpness, pose and confidence, beyond which the label is ``None`` with a reason.
    levels : LevelOptions
        Map of gray and 16-bit frames to 8 bits, for near-infrared cameras.
    prior : str, mapping or None
        Class frequencies in the deployment, see :func:`fer_edge.probabilities.make_rule`: ``training``, ``balanced``,
        ``uniform``, or class name → probability; ``None`` is the default of the bundle.
    allow_random : bool
        Accept a bundle whose weights are random.
    attention : bool
        Return :attr:`Face.attention`; the bundle must have been built with ``--attention``.
    self_test : bool
        Compare the network with the reference outputs of its bundle before the first frame. Without it, wrong
        outputs of a backend go unnoticed; :attr:`Runtime.info` records that.
    tune : bool
        Measure the fastest backend, precision, threads and max_batch, as far as they are not given, once per bundle
        and machine, see :mod:`fer_edge.runtime.tune`. Without it, or with ``FER_EDGE_TUNE=0`` in the environment,
        the first available backend runs the default precision of the bundle.
    tracking : TrackingOptions or None
        Tracks, steady labels and schedule of the frames of a stream. ``None``: each frame of a stream is detected and
        classified by itself, as the frames of a call always are.
    """

    backend: str = "auto"
    session: SessionOptions = field(default_factory=SessionOptions)
    detector: str = DEFAULT_DETECTOR
    detector_options: DetectorOptions = field(default_factory=DetectorOptions)
    rotate: int | str = 0
    min_probability: float = MIN_PROBABILITY
    quality: QualityThresholds = field(default_factory=QualityThresholds)
    levels: LevelOptions = field(default_factory=LevelOptions)
    prior: Prior | None = None
    allow_random: bool = False
    attention: bool = False
    self_test: bool = True
    tune: bool = True
    tracking: TrackingOptions | None = field(default_factory=TrackingOptions)

    def __post_init__(self) -> None:
        for name, kind, hint in (
            ("session", SessionOptions, ", or its fields as keyword arguments of Runtime"),
            ("detector_options", DetectorOptions, ""),
            ("quality", QualityThresholds, ""),
            ("levels", LevelOptions, ""),
            ("tracking", TrackingOptions | None, ", or None for independent frames"),
        ):
            if not isinstance(getattr(self, name), kind):
                expected = getattr(kind, "__name__", "TrackingOptions")
                raise UsageError(
                    f"{name} must be {expected}, found {getattr(self, name)!r:.60}. Fix: give {expected}(…){hint}"
                )
        require_rotation(self.rotate)
        require_number("min_probability", self.min_probability, 0, 1)
        for name in ("allow_random", "attention", "self_test", "tune"):
            require_flag(name, getattr(self, name))


class RuntimeChanges(TypedDict, total=False):
    """Fields of :class:`RuntimeOptions` and of its session as keyword arguments, for type checkers."""

    backend: str
    session: SessionOptions
    detector: str
    detector_options: DetectorOptions
    rotate: int | str
    min_probability: float
    quality: QualityThresholds
    levels: LevelOptions
    prior: Prior | None
    allow_random: bool
    attention: bool
    self_test: bool
    tune: bool
    tracking: TrackingOptions | None
    # of the session
    threads: int | None
    precision: str | None
    dla_core: int | None
    gpu_fallback: bool
    max_batch: int | None


def make_options(options: RuntimeOptions | None = None, **changes: Unpack[RuntimeChanges]) -> RuntimeOptions:
    """Return ``options``, or the defaults, with ``changes`` applied to them and to their session.

    Raises
    ------
    TypeError
        If a change names no field; the message suggests the nearest one.
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

"""ModelSpec: the preprocessing from a frame's pixels to a network's input, and the meaning of its outputs.

The spec is stored with the ONNX model, so that every backend gets the same input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge._utils.checks import is_number, is_text
from fer_edge.errors import BundleError

COLORS = ("gray", "rgb", "bgr")
CROP_SHAPES = ("square", "box")
CROP_EDGES = ("clip", "replicate")
INTERPOLATIONS = ("bilinear", "area")
# Real specs lie well inside these bounds: means from 0 to 1, std from 0.2 to 1, scales from 1 to 1.1, ten classes at most.
_MAX_SIDE_PX = 4096
_MAX_MEAN = 100.0
_STD = (1e-4, 1e4)
_CROP_SCALE = (0.1, 10)
_MAX_CLASSES = 1000
_MAX_OUTPUTS = 16
_MAX_NAME_CHARS = 100


@dataclass(frozen=True)
class CropRule:
    """Conversion of a face box to a crop.

    Attributes
    ----------
    shape : {"square", "box"}
        ``square``: centred, side = mean of width and height, as the Residual Masking authors do it.
    scale : float
        Factor on the side (1.1 adds 5 % at each edge).
    edge : {"clip", "replicate"}
        Beyond the frame: clip the crop (the resize then stretches it), or repeat the border pixels.
    min_side_px : int
        Smaller crops are not classified.
    """

    shape: str = "square"
    scale: float = 1.1
    edge: str = "clip"
    min_side_px: int = 10


@dataclass(frozen=True)
class ModelSpec:
    """Input and output contract of one network.

    Attributes
    ----------
    network : str
        Registry name.
    input_height, input_width : int
        Pixels.
    color : {"gray", "rgb", "bgr"}
        Channel order of the input; gray is repeated over ``channels``.
    channels : int
        1 or 3.
    mean, std : tuple of float
        One value per channel, in units of pixel / 255: input = (pixel / 255 − mean) / std.
    interpolation : {"bilinear", "area"}
        Interpolation of the resize, as in OpenCV.
    class_names : tuple of str
        Order of the logits.
    outputs : tuple of str
        ``logits`` first; ``attention``, ``landmarks``, ``embedding`` if the network has them.
    """

    network: str
    input_height: int
    input_width: int
    color: str
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    crop: CropRule = CropRule()
    interpolation: str = "bilinear"
    outputs: tuple[str, ...] = ("logits",)

    def __post_init__(self) -> None:
        for fine, problem in self._rules():
            if not fine:
                raise BundleError(
                    f"the model spec of {self.network!r:.80} is wrong: {problem}. "
                    "Fix: correct the spec, or build the bundle again"
                )

    def gain_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 values per channel: input = pixel · gain + offset, with pixels from 0 to 255."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def _rules(self) -> Iterator[tuple[bool, str]]:
        """Yield each condition with the problem if it is false; types are checked before values are compared."""
        yield is_text(self.network, _MAX_NAME_CHARS), "network must be a printable name"
        yield self.color in COLORS, f"color must be one of {COLORS}, found {self.color!r:.60}"
        for name in ("channels", "input_height", "input_width"):
            yield (
                type(getattr(self, name)) is int,
                f"{name} must be a whole number, found {getattr(self, name)!r:.60}",
            )
        fits = self.channels == 3 or (self.channels == 1 and self.color == "gray")
        yield fits, f"{self.color} input cannot have {self.channels} channels"
        sides = (self.input_height, self.input_width)
        yield (
            all(0 < side <= _MAX_SIDE_PX for side in sides),
            f"input size {sides[1]}×{sides[0]} is out of range",
        )
        for name in ("mean", "std", "class_names", "outputs"):
            yield isinstance(getattr(self, name), tuple), f"{name} must be a tuple"
        yield len(self.mean) == len(self.std) == self.channels, "mean and std need one value per channel"
        numbers = (*self.mean, *self.std)
        yield all(map(is_number, numbers)), f"mean and std must be finite numbers, found {numbers!r:.120}"
        yield (
            all(abs(m) <= _MAX_MEAN for m in self.mean),
            f"mean must be from -{_MAX_MEAN:g} to {_MAX_MEAN:g}, in units of pixel / 255, found {self.mean!r:.60}",
        )
        low, high = _STD
        yield (
            all(low <= s <= high for s in self.std),
            f"std must be from {low} to {high}, found {self.std!r:.60}",
        )
        yield (
            2 <= len(self.class_names) <= _MAX_CLASSES,
            f"there must be 2 to {_MAX_CLASSES} class_names, found {len(self.class_names)}",
        )
        yield (
            1 <= len(self.outputs) <= _MAX_OUTPUTS,
            f"there must be 1 to {_MAX_OUTPUTS} outputs, found {len(self.outputs)}",
        )
        for kind, names in (("class_names", self.class_names), ("outputs", self.outputs)):
            printable = all(is_text(name, _MAX_NAME_CHARS) for name in names)
            yield printable, f"{kind} must be printable text of up to {_MAX_NAME_CHARS} characters"
            yield len(set(names)) == len(names), f"{kind} must be different"
        yield self.outputs[0] == "logits", "the first output must be 'logits'"
        yield (
            self.interpolation in INTERPOLATIONS,
            f"interpolation must be one of {INTERPOLATIONS}, found {self.interpolation!r:.60}",
        )
        yield from self._crop_rules()

    def _crop_rules(self) -> Iterator[tuple[bool, str]]:
        crop = self.crop
        yield isinstance(crop, CropRule), "crop must be a CropRule"
        yield crop.shape in CROP_SHAPES, f"crop shape must be one of {CROP_SHAPES}, found {crop.shape!r:.60}"
        yield crop.edge in CROP_EDGES, f"crop edge must be one of {CROP_EDGES}, found {crop.edge!r:.60}"
        low, high = _CROP_SCALE
        yield (
            is_number(crop.scale) and low <= crop.scale <= high,
            f"crop scale must be from {low} to {high}, found {crop.scale!r:.60}",
        )
        whole = type(crop.min_side_px) is int and 1 <= crop.min_side_px <= _MAX_SIDE_PX
        yield (
            whole,
            f"crop min_side_px must be a whole number from 1 to {_MAX_SIDE_PX}, found {crop.min_side_px!r:.60}",
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.input_height, self.input_width)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelSpec:
        """Return the spec from the result of :meth:`to_dict`; unknown or missing fields raise :class:`BundleError`."""
        try:
            fields = dict(value)
            fields["crop"] = CropRule(**fields.get("crop", {}))
            for name in ("mean", "std", "class_names", "outputs"):
                if isinstance(fields.get(name), str):
                    raise TypeError(f"{name} is not a list")
                if name in fields:
                    fields[name] = tuple(fields[name])
            return cls(**fields)
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                f"the model spec cannot be read ({error}). Fix: build the bundle again"
            ) from error

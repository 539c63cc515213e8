"""ModelSpec: everything between a frame's pixels and a network's input, and the meaning of its outputs.

The spec travels with the ONNX. Whoever runs the network, on whatever backend, prepares the same pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fer_edge.errors import BundleError

COLORS = ("gray", "rgb", "bgr")
CROP_SHAPES = ("square", "box")
CROP_EDGES = ("clip", "replicate")
INTERPOLATIONS = ("bilinear", "area")


@dataclass(frozen=True)
class CropRule:
    """How a face box becomes a crop.

    Attributes
    ----------
    shape : {"square", "box"}
        ``square``: centred, side = mean of width and height, as the Residual Masking authors do it.
    scale : float
        Factor on the side (1.1 adds 5 % at each edge).
    edge : {"clip", "replicate"}
        Beyond the frame: cut the crop (it is then stretched), or repeat the border pixels.
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
        How the crop is resized, as OpenCV does it.
    class_names : tuple of str
        Order of the logits.
    outputs : tuple of str
        ``logits`` first; ``attention``, ``landmarks``, ``embedding`` where the network has them.
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
        problems = [
            (self.color in COLORS, f"color must be one of {COLORS}, found {self.color!r}"),
            (self.channels == 3 or (self.channels == 1 and self.color == "gray"), f"{self.color} input cannot have {self.channels} channels"),
            (type(self.input_height) is type(self.input_width) is int, "input_height and input_width must be whole numbers"),
            (0 < self.input_height <= 4096 and 0 < self.input_width <= 4096, f"input size {self.input_width}×{self.input_height} is out of range"),
            (len(self.mean) == len(self.std) == self.channels, "mean and std need one value per channel"),
            (all(map(math.isfinite, (*self.mean, *self.std))) and all(s > 0 for s in self.std), "mean and std must be finite, std positive"),
            (all(isinstance(n, str) and n.isprintable() for n in (*self.class_names, *self.outputs)), "class_names and outputs must be printable text"),
            (len(self.class_names) >= 2 and len(set(self.class_names)) == len(self.class_names), "class_names must be at least two different names"),
            (self.crop.shape in CROP_SHAPES, f"crop shape must be one of {CROP_SHAPES}, found {self.crop.shape!r}"),
            (self.crop.edge in CROP_EDGES, f"crop edge must be one of {CROP_EDGES}, found {self.crop.edge!r}"),
            (0.1 <= self.crop.scale <= 10, f"crop scale must be from 0.1 to 10, found {self.crop.scale}"),
            (type(self.crop.min_side_px) is int, "crop min_side_px must be a whole number"),
            (self.interpolation in INTERPOLATIONS, f"interpolation must be one of {INTERPOLATIONS}, found {self.interpolation!r}"),
            (self.outputs[:1] == ("logits",), "the first output must be 'logits'"),
        ]  # fmt: skip
        for fine, problem in problems:
            if not fine:
                raise BundleError(f"the model spec of {self.network!r} is wrong: {problem}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.input_height, self.input_width)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelSpec:
        """Read what :meth:`to_dict` wrote; unknown or missing fields raise :class:`BundleError`."""
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
            raise BundleError(f"the model spec cannot be read ({error}): rebuild the bundle") from error

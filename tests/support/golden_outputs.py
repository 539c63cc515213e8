"""Golden outputs: what the original networks give, filled with weights that are drawn from their names."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Golden:
    """One original network: its entries in order, and its outputs by name."""

    keys: Shapes
    arrays: dict[str, np.ndarray]
    filler: ModuleType

    def weights(self) -> dict[str, np.ndarray]:
        """Return what the network was filled with, drawn anew: it may take half a gigabyte."""
        drawn = self.filler.fill(self.keys, int(self.arrays["seed"]))
        assert self.filler.digest(drawn) == str(self.arrays["weights_sha256"])
        return drawn

    def batch(self) -> np.ndarray:
        """Return the images that it was given."""
        batch = self.filler.inputs(self.arrays["input_shape"], int(self.arrays["input_seed"]))
        assert self.filler.digest({"input": batch}) == str(self.arrays["input_sha256"])
        return batch


class GoldenFolder:
    """The folder of all, and ``filler``, the module in it that draws weights and inputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
        assert spec is not None
        assert spec.loader is not None
        self.filler = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.filler)

    def keys(self, name: str) -> Shapes:
        """Return names and shapes of an original network's entries."""
        return self.filler.read_keys(self._folder / "keys" / f"{name}.txt")

    def load(self, name: str) -> Golden:
        """Return an original network."""
        with np.load(self._folder / f"{name}.npz") as archive:
            return Golden(self.keys(name), dict(archive), self.filler)

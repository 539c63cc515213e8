"""INT8 of the shipped network, with all layers in integers and with some in floating point."""

from __future__ import annotations

from pathlib import Path

import pytest
from int8_builds import make

from fer_edge.bundle import RANGES, Bundle, open_bundle
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.calibration.int8 import Int8Options, Int8Result
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.models.catalogue import shipped_bundle


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return open_bundle(shipped_bundle())


@pytest.fixture(scope="session")
def ranges(bundle: Bundle) -> Ranges:
    return load_ranges(bundle.path / RANGES, bundle.model_path("fp32", "cpu"))


@pytest.fixture(scope="session")
def plain(
    bundle: Bundle, ranges: Ranges, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Int8Result, Path]:
    work = tmp_path_factory.mktemp("plain")
    return make(bundle, ranges, work), work


@pytest.fixture(scope="session")
def mixed(
    bundle: Bundle,
    ranges: Ranges,
    plain: tuple[Int8Result, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Int8Result, Path, Bounds]:
    """A bound that INT8 misses: three quarters of the loss with all layers in integers."""
    work = tmp_path_factory.mktemp("mixed")
    bounds = Bounds(min_cosine=1 - 0.75 * (1 - plain[0].comparison.logit_cosine))
    return make(bundle, ranges, work, Int8Options(bounds, sensitivity_images=8)), work, bounds

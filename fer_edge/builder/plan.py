"""Plan a build: check the options, and choose names, backend, bounds and numbers of faces before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fer_edge._utils.checks import MAX_IMAGES, require_flag, require_path, require_whole
from fer_edge.backends import BACKENDS, Backend, choose_backend
from fer_edge.builder.faces import Sources, load_sources
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.splits import Counts
from fer_edge.bundle import Bundle, open_bundle, require_attention
from fer_edge.calibration.comparison.bounds import Bounds
from fer_edge.calibration.int8 import Int8Options
from fer_edge.calibration.ranges.methods import AUTO_METHOD, METHODS
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.cuda.gpus import ComputeCapability, parse_capability
from fer_edge.engines.build.ahead_of_time import FLAVOUR
from fer_edge.engines.plugin import PLUGIN_CHOICES
from fer_edge.errors import UsageError, lookup
from fer_edge.manifest import FP32_MODEL, PRECISIONS, RANGES
from fer_edge.models.catalogue import CATALOGUE, shipped_bundle
from fer_edge.outputs import BUNDLE, Output, check_outputs
from fer_edge.synthetic import GENERATORS
from fer_edge.weights.cache import find_weights
from fer_edge.weights.request import Request, request_weights

#: Default numbers of faces.
_USUAL = Counts(calibrating=512, held_out=64, comparing=128)
#: Fewer faces, since a processor of two cores takes half a second a face, and a build runs each about thirty times.
_SLOW = Counts(calibrating=128, held_out=32, comparing=64)
_SLOW_MACS = 15_000_000_000


@dataclass(frozen=True)
class BuildPlan:
    """Decisions of one build; made by :func:`make_plan`.

    Attributes
    ----------
    options : BuildOptions
        Options of the user.
    output : Path
        Folder of the bundle.
    weights : Request
        Weights of the network.
    timing_only : bool
        ``True`` for random weights; their outputs are judged only by bounds that the user sets.
    shipped : Bundle or None
        The shipped bundle with these weights.
    shipped_ranges : Ranges or None
        Its ranges, if INT8 uses them.
    backend : Backend
        Backend on which FP32 and INT8 are compared.
    method : str
        A key of :data:`fer_edge.calibration.ranges.methods.METHODS`, or ``auto``.
    int8 : Int8Options
        Options for judging INT8.
    counts : Counts
        Number of faces in each part of the split; 0 for a part that the build does not need.
    fp16_faces : int
        Number of faces that FP16 is measured on.
    capabilities : tuple of (int, int)
        Compute capabilities that engines are compiled for.
    """

    options: BuildOptions
    output: Path
    weights: Request
    timing_only: bool
    shipped: Bundle | None
    shipped_ranges: Ranges | None
    backend: Backend
    method: str
    int8: Int8Options
    counts: Counts
    fp16_faces: int
    capabilities: tuple[ComputeCapability, ...]

    @cached_property
    def sources(self) -> Sources:
        """Data sets of the options, loaded on first use.

        Raises
        ------
        DataError
            If a data set cannot be read.
        """
        return load_sources(self.options)

    @property
    def shipped_ranges_data(self) -> str | None:
        """Name of the faces that ``shipped_ranges`` were measured on."""
        return None if self.shipped_ranges is None else self.shipped_ranges.data["name"]


def make_plan(options: BuildOptions) -> BuildPlan:
    """Check options and resolve their defaults, without reading data sets, PyTorch or network access.

    Raises
    ------
    UsageError
        If a name is unknown, a number out of range, two options contradict each other, or the output cannot be
        written, is a bundle already, or would overwrite an input.
    WeightsError
        If the weights file is missing or has another sha256, or no weights of this network are known.
    BundleError
        If attention is requested and the shipped bundle has none.
    BackendError
        If the backend is not available.
    """
    author_inputs = (options.canonical_shape, options.image_statistics)
    weights = request_weights(
        options.model,
        options.weights,
        options.weights_sha256,
        any(path is not None for path in author_inputs),
    )
    if options.generator is not None:
        lookup(GENERATORS, options.generator, "generator")
        if options.calibration_data is not None:
            raise UsageError(
                f"expected generator or calibration_data, found both ({options.generator} and {options.calibration_data}). "
                "Fix: leave one out"
            )
    lookup(dict.fromkeys(PRECISIONS), options.precision, "precision")
    lookup(dict.fromkeys(PLUGIN_CHOICES), options.plugin, "choice for the plugin")
    if options.method != AUTO_METHOD:
        lookup(METHODS, options.method, "calibration method")
    capabilities = tuple(parse_capability(text) for text in options.compute_capabilities)
    for name in ("calibration_images", "comparison_images"):
        require_whole(name, getattr(options, name), 1, MAX_IMAGES, optional=True)
    for name in ("attention", "overwrite", "skip_bad"):
        require_flag(name, getattr(options, name))
    for name in ("calibration_data", "eval_data", "output", "canonical_shape", "image_statistics"):
        require_path(name, getattr(options, name))
    timing_only = weights.kind == "random"
    int8 = _int8_options(options, timing_only)
    output = Path(options.output or f"{options.model}-{options.precision}.fer")
    inputs = (options.weights, options.calibration_data, options.eval_data, *author_inputs)
    check_outputs([Output("--output", output, BUNDLE, overwrite=options.overwrite)], inputs)
    backend = _comparison_backend(options)
    shipped, shipped_ranges = _shipped(options, weights)
    # Random weights are for timing only, so one pass over the faces gives ranges that are good enough.
    method = "minmax" if options.method == AUTO_METHOD and timing_only else options.method
    usual = _SLOW if CATALOGUE[options.model].macs > _SLOW_MACS else _USUAL
    return BuildPlan(
        options=options,
        output=output,
        weights=weights,
        timing_only=timing_only,
        shipped=shipped,
        shipped_ranges=shipped_ranges,
        backend=backend,
        method=method,
        int8=int8,
        counts=_counts(options, usual, shipped_ranges is None, method),
        fp16_faces=usual.held_out,
        capabilities=capabilities,
    )


def _int8_options(options: BuildOptions, timing_only: bool) -> Int8Options:
    given = (options.max_drop, options.min_cosine, options.min_agreement)
    bounds = None if all(bound is None for bound in given) else Bounds(*given)
    int8 = Int8Options(bounds, timing_only, options.sensitivity, options.sensitivity_images)
    if (bounds is not None or int8.sensitivity) and options.precision != "int8":
        raise UsageError(
            "max_drop, min_cosine, min_agreement and sensitivity are for INT8, "
            f"found the precision {options.precision}. Fix: leave them out"
        )
    return int8


def _comparison_backend(options: BuildOptions) -> Backend:
    """Return the backend on which FP32 and INT8 are compared; engines for other devices do not run here."""
    if options.compute_capabilities:
        if options.backend not in ("auto", FLAVOUR):
            raise UsageError(
                f"engines for other devices are compiled by {FLAVOUR}, found --backend {options.backend}. "
                f"Fix: give --backend {FLAVOUR} with --compute-capability"
            )
        return choose_backend()
    if options.backend == FLAVOUR and not BACKENDS[FLAVOUR].available().ok:
        raise UsageError(
            f"{FLAVOUR} expects a GPU or --compute-capability, found neither. "
            "Fix: give the devices to compile for, such as --compute-capability 8.6"
        )
    return choose_backend(options.backend)


def _shipped(options: BuildOptions, weights: Request) -> tuple[Bundle | None, Ranges | None]:
    """Return the shipped bundle with these weights, and its ranges if INT8 uses them."""
    if weights.kind != "shipped":
        return None, None
    find_weights(weights)  # compares the sha256
    bundle = open_bundle(shipped_bundle(weights.shipped))
    if options.attention:
        require_attention(bundle)
    wanted = options.precision == "int8" and options.calibration_data is None
    if not wanted or RANGES not in bundle.manifest.files:
        return bundle, None
    if options.method != AUTO_METHOD:
        raise UsageError(
            f"ranges ship with {options.model}, and --method {options.method} cannot change them. "
            "Fix: leave --method out, or give --calibration-data"
        )
    return bundle, load_ranges(bundle.path / RANGES, bundle.path / FP32_MODEL)


def _counts(options: BuildOptions, usual: Counts, no_ranges: bool, method: str) -> Counts:
    """Return the number of faces for each part of the split."""
    calibrates = options.calibration_data is not None or (options.precision == "int8" and no_ranges)
    measures = calibrates and method == AUTO_METHOD
    compares = options.precision != "fp32" or options.eval_data is not None
    return Counts(
        (options.calibration_images or usual.calibrating) if calibrates else 0,
        usual.held_out if measures else 0,
        (options.comparison_images or usual.comparing) if compares else 0,
    )

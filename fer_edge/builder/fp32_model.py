"""The FP32 model of a build: one that ships, or one exported from weights."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from fer_edge._utils.progress import Progress
from fer_edge.builder.options import BuildOptions
from fer_edge.bundle import FP32_MODEL, RANGES, SELF_TEST, Manifest, open_bundle, require_attention
from fer_edge.datasets import FaceDataset
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.system.extras import require_extra
from fer_edge.weights.cache import find_weights
from fer_edge.weights.request import Request, request_weights


def fp32_model(
    options: BuildOptions, work: Path, on_progress: Progress, pictures: FaceDataset | None = None
) -> Manifest:
    """Put ``model.onnx`` (and ranges that ship) into ``work``; return the manifest so far.

    An exported network is checked on ``pictures``, or on generated ones.

    Raises
    ------
    UsageError
        If weights are of another network than the one asked for.
    MissingExtraError
        If PyTorch is needed and missing; nothing has been fetched then.
    DownloadError
        If weights that their authors have published cannot be fetched.
    WeightsError, ExportError
        If weights cannot be loaded, or the exported network gives other outputs.
    """
    request = request_weights(options.model, options.weights, options.weights_sha256)
    if request.kind == "shipped":
        return _shipped(options, request, work)
    require_extra("export", "exporting weights")
    found = None if request.kind == "random" else find_weights(request, on_progress)
    from fer_edge.export.checkpoints import AuthorInputs, load_found, random_network
    from fer_edge.export.onnx.export import FACES_TO_CHECK, export_onnx

    on_progress("loading weights", 0, 1)
    if found is None:
        trained = random_network(options.model)
    else:
        trained = load_found(found, request, AuthorInputs(options.canonical_shape, options.image_statistics))
    on_progress("loading weights", 1, 1)
    if options.attention:
        from fer_edge.export.explanation.attention import with_attention

        trained = with_attention(trained)
    faces = None if pictures is None else pictures.sample(FACES_TO_CHECK)
    report = export_onnx(trained, work / FP32_MODEL, faces, on_progress)
    # PyTorch's exporter holds what it exported until the process ends: let that be empty.
    for tensor in (*trained.module.parameters(), *trained.module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    return Manifest(
        spec=trained.spec,
        precision="fp32",
        provenance={"options": dict(trained.options), **trained.provenance},
        metrics={"export": dataclasses.asdict(report)},
        temperature=trained.temperature,
        class_frequencies=trained.class_frequencies,
        logit_prior=trained.logit_prior,
    )


def _shipped(options: BuildOptions, request: Request, work: Path) -> Manifest:
    find_weights(request)  # the sha256 that is asked for
    bundle = open_bundle(shipped_bundle(request.shipped))
    if options.attention:
        require_attention(bundle)
    for name in (FP32_MODEL, RANGES, SELF_TEST):
        if name in bundle.manifest.files:
            shutil.copyfile(bundle.path / name, work / name)
    return bundle.manifest

"""The FP32 model of a build: one that ships, or one exported from weights."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from fer_edge._files import sha256_of
from fer_edge.builder.options import BuildOptions
from fer_edge.bundle import FP32_MODEL, RANGES, SELF_TEST, Manifest, open_bundle
from fer_edge.catalogue import SHIPPED, shipped_bundle
from fer_edge.datasets import FaceDataset
from fer_edge.errors import UsageError
from fer_edge.evaluation import Progress
from fer_edge.explanation import require_attention
from fer_edge.extras import require_extra


def fp32_model(
    options: BuildOptions, work: Path, on_progress: Progress, pictures: FaceDataset | None = None
) -> Manifest:
    """Put ``model.onnx`` (and ranges that ship) into ``work``; return the manifest so far.

    An exported network is checked on ``pictures``, or on generated ones.

    Raises
    ------
    UsageError
        If weights that ship are of another network, or PyTorch is needed and missing.
    WeightsError, ExportError
        If weights cannot be loaded, or the exported network gives other outputs.
    """
    shipped = options.model if options.weights == "auto" else options.weights
    if options.weights == "auto" or shipped in SHIPPED:
        bundle = open_bundle(shipped_bundle(shipped))
        if bundle.spec.network != options.model:
            raise UsageError(
                f"{shipped} is of the network {bundle.spec.network}: give --model {bundle.spec.network}"
            )
        if options.attention:
            require_attention(bundle)
        for name in (FP32_MODEL, RANGES, SELF_TEST):
            if name in bundle.manifest.files:
                shutil.copyfile(bundle.path / name, work / name)
        return bundle.manifest
    require_extra("export", "exporting weights")
    from fer_edge.export.checkpoints import AuthorInputs, load_any, random_network
    from fer_edge.export.onnx_model import FACES_TO_CHECK, export_onnx

    on_progress("exporting", 0, 1)
    origin: dict[str, str] = {}
    if options.weights == "random":
        trained = random_network(options.model)
    else:
        inputs = AuthorInputs(options.canonical_shape, options.image_statistics)
        trained = load_any(Path(options.weights), options.model, inputs)
        if "weights_sha256" not in trained.provenance:  # authors' files have been hashed while loading
            origin["weights_sha256"] = sha256_of(Path(options.weights))
    if options.attention:
        from fer_edge.export.explanation.attention import with_attention

        trained = with_attention(trained)
    faces = None if pictures is None else pictures.sample(FACES_TO_CHECK)
    report = export_onnx(trained, work / FP32_MODEL, faces)
    # PyTorch's exporter holds what it exported until the process ends: let that be empty.
    for tensor in (*trained.module.parameters(), *trained.module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    on_progress("exporting", 1, 1)
    return Manifest(
        spec=trained.spec,
        precision="fp32",
        provenance={"options": dict(trained.options), **origin, **trained.provenance},
        metrics={"export": dataclasses.asdict(report)},
        temperature=trained.temperature,
        class_frequencies=trained.class_frequencies,
        logit_prior=trained.logit_prior,
    )

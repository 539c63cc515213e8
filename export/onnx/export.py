"""Export a network to ONNX with standard operators and a dynamic batch, and compare it with PyTorch."""

from __future__ import annotations

import ast
import contextlib
import itertools
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import torch
from torch import nn

from fer_edge._utils.files import text_path, whole_file
from fer_edge._utils.progress import Progress
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.errors import ExportError
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.attention_op import DOMAIN, OPSET_VERSION, function_text
from fer_edge.export.networks.tolerance import DEFAULT_TOLERANCE, Discontinuous
from fer_edge.export.onnx.folding import fold_norm_through_pool, move_relu_before_pool
from fer_edge.export.weights import TrainedNetwork
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic.drawn import generate_faces

OPSET = 18
#: Readable by TensorRT 10.3 and ONNX Runtime 1.18.
IR_VERSION = 9
#: Limit of protobuf on one message, and the bytes reserved for the graph besides its weights.
_MAX_FILE_BYTES = 2**31 - 1
_GRAPH_BYTES = 16 << 20
_CHECKED_FACES = 8
_STAGE = "exporting"
#: Number of draws of faces while too few can be compared (see :func:`_comparable`).
_ATTEMPTS = 8
#: Number of faces that the check reads at most; callers need to pass no more.
FACES_TO_CHECK = _CHECKED_FACES * _ATTEMPTS


@dataclass(frozen=True)
class OutputDifference:
    """Difference of one output between ONNX Runtime and PyTorch.

    Attributes
    ----------
    max_abs : float
        Largest difference, in the output's unit.
    scale : float
        Largest absolute value of PyTorch's output.
    allowed : float
        Bound by :class:`~fer_edge.export.networks.tolerance.Tolerance` at this scale.
    """

    max_abs: float
    scale: float
    allowed: float

    @property
    def accepted(self) -> bool:
        """True if the difference is within the bound, and not NaN."""
        return self.max_abs <= self.allowed


@dataclass(frozen=True)
class ExportReport:
    """Differences between ONNX Runtime and PyTorch on the same faces.

    Attributes
    ----------
    max_abs_difference : float
        Of the logits.
    differences : mapping
        Output name → :class:`OutputDifference`.
    same_argmax : bool
        True if every face has the same class; a tie within the tolerance counts as the same.
    faces, skipped_faces : int
        Faces compared, and faces left out because the network is discontinuous there (a landmark on a pixel's edge).
    real_faces : bool
        True for faces of the user, false for generated ones.
    folded_norms : int
        Normalisations folded through a max-pool.
    """

    max_abs_difference: float
    differences: Mapping[str, OutputDifference]
    same_argmax: bool
    faces: int
    skipped_faces: int
    real_faces: bool
    folded_norms: int


def export_onnx(
    trained: TrainedNetwork,
    path: Path,
    faces: Iterable[np.ndarray] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> ExportReport:
    """Write ``trained`` as ONNX to ``path``.

    Parameters
    ----------
    trained : TrainedNetwork
        Network, weights and spec.
    path : Path
        Output file; it is written only if the check passes.
    faces : iterable of np.ndarray, optional
        Face crops for the check, uint8 BGR or gray, of which the first 8 are taken, and more where those cannot
        be compared. Generated ones are used if there are none.
    on_progress : callable
        Called with (stage, done, total).

    Raises
    ------
    ExportError
        If an output of ONNX Runtime differs from PyTorch's by more than the network's tolerance, or the class
        differs; if the weights exceed the 2 GiB limit of one ONNX file.
    """
    module, spec = trained.module.eval(), trained.spec
    _check_size(module)
    on_progress(_STAGE, 0, 4)
    batch, skipped = _faces_to_compare(module, spec, faces)
    on_progress(_STAGE, 1, 4)
    model = _to_onnx(module, spec)
    on_progress(_STAGE, 2, 4)
    folded = fold_norm_through_pool(model)
    move_relu_before_pool(model)
    _tidy(model)
    with whole_file(path) as part:
        onnx.save(model, part)
        del model  # frees memory for the sessions below, 1.5 GB for the ensemble
        with text_path(part) as name:
            onnx.checker.check_model(name, full_check=True)
        on_progress(_STAGE, 3, 4)
        differences, same = _compare(module, part, batch, spec)
        wrong = [
            f"{name} by {d.max_abs:.2e} (at most {d.allowed:.0e} is accepted)"
            for name, d in differences.items()
            if not d.accepted
        ]
        if wrong or not same:
            raise ExportError(
                f"the ONNX file differs from PyTorch ({', '.join(wrong) or 'another class'}), so {path.name} was not written. Fix: report this with the output of fer-edge doctor."
            )
    on_progress(_STAGE, 4, 4)
    return ExportReport(
        max_abs_difference=differences["logits"].max_abs,
        differences=differences,
        same_argmax=same,
        faces=len(batch),
        skipped_faces=skipped,
        real_faces=faces is not None,
        folded_norms=folded,
    )


def _check_size(module: nn.Module) -> None:
    """Refuse weights above the limit of one file before the export, which takes minutes."""
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > _MAX_FILE_BYTES - _GRAPH_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.2f} GB, expected at most {_MAX_FILE_BYTES / 1e9:.2f} GB, the limit of one ONNX file. Fix: export fewer members, or each network alone."
        )


def _faces_to_compare(
    module: nn.Module, spec: ModelSpec, faces: Iterable[np.ndarray] | None
) -> tuple[np.ndarray, int]:
    """Return the batch to compare on, and the number of faces left out of it."""
    generated = (
        face for attempt in range(_ATTEMPTS) for face in generate_faces(_CHECKED_FACES, seed=attempt)
    )
    crops = iter(generated if faces is None else faces)
    kept: list[np.ndarray] = []
    seen = 0
    while 2 * len(kept) < _CHECKED_FACES and seen < FACES_TO_CHECK:
        drawn = list(itertools.islice(crops, _CHECKED_FACES))
        if not drawn:
            break
        batch = prepare_batch(drawn, spec)
        kept += list(batch[_comparable(module, batch)])
        seen += len(batch)
    if not seen:
        raise ExportError(
            "found no faces to check the export on. Fix: give faces, or leave them out to use generated ones."
        )
    if not kept:
        raise ExportError(
            f"all {seen} faces lie at discontinuities of the network, where rounding decides its outputs. Fix: check on other faces."
        )
    return np.stack(kept), seen - len(kept)


def _comparable(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    """Return ``[B]`` bool: inputs away from every discontinuity; see :class:`Discontinuous`."""
    if not isinstance(module, Discontinuous):
        return np.ones(len(batch), bool)
    with torch.inference_mode():
        return module.is_steady(torch.from_numpy(batch)).numpy()


def _to_onnx(module: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(2, *spec.input_shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=list(spec.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]  # None only without dynamo
    model.ir_version = IR_VERSION
    ours = [node for node in model.graph.node if node.domain == DOMAIN]
    if ours:
        text = function_text(with_received=len(ours[0].output) > 1)
        model.functions.append(onnx.parser.parse_function(text))
        versions = {entry.domain: entry for entry in model.opset_import}
        if DOMAIN not in versions:
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, OPSET_VERSION))
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its internals and about torchvision, which is not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(model: onnx.ModelProto) -> None:
    """Name nodes and tensors after the module they come from; drop the exporter's metadata.

    The metadata holds source paths of the exporting machine. Ranges, sensitivity tables and engine layer
    reports show the names.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    taken: set[str] = set(fixed)
    renamed: dict[str, str] = {}
    for node in graph.node:
        scope = _module_scope(node)
        node.name = _unique(f"{scope}/{node.op_type}" if scope else node.op_type, taken)
        for i, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = node.name if i == 0 else f"{node.name}:{i}"
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        for i, name in enumerate(node.output):
            node.output[i] = renamed.get(name, name)
    del graph.value_info[:]
    parts = (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output)
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name, model.producer_version = "fer-edge", ""


def _module_scope(node: onnx.NodeProto) -> str:
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
    return re.sub(r"[^\w.]", "_", modules[-1]) if modules else ""


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _compare(
    module: nn.Module, path: Path, batch: np.ndarray, spec: ModelSpec
) -> tuple[dict[str, OutputDifference], bool]:
    """Return the difference of every output and whether every class agrees; batch 1 included."""
    with torch.inference_mode():
        outputs = module(torch.from_numpy(batch))
    values = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    expected = {name: value.numpy() for name, value in zip(spec.outputs, values, strict=True)}
    session = BACKENDS["onnxruntime"].open(path, SessionOptions())
    whole, alone = session.run(batch), session.run(batch[:1])
    session.close()
    entry = NETWORKS.get(spec.network)
    tolerances = entry.tolerances if entry else {}
    differences = {}
    for name, reference in expected.items():
        # A maximum would drop a NaN of the second.
        errors = np.concatenate([(whole[name] - reference).ravel(), (alone[name] - reference[:1]).ravel()])
        scale = float(np.abs(reference).max())
        allowed = tolerances.get(name, DEFAULT_TOLERANCE).at(scale)
        differences[name] = OutputDifference(float(np.abs(errors).max()), scale, allowed)
    tie = 2 * differences["logits"].allowed
    same = all(
        _same_class(found["logits"], expected["logits"][: len(found["logits"])], tie)
        for found in (whole, alone)
    )
    return differences, same


def _same_class(found: np.ndarray, expected: np.ndarray, tie: float) -> bool:
    """Return ``[B]`` bool: the class found is the largest of ``expected`` up to ``tie``."""
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    return bool((expected.max(axis=1) - chosen <= tie).all())

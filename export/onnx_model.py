"""Network and spec → ONNX: standard operators, dynamic batch, checked against PyTorch before it is kept."""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import torch
from torch import nn

from fer_edge._files import whole_file
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.errors import ExportError
from fer_edge.export.attention_op import DOMAIN, OPSET_VERSION, function_text
from fer_edge.export.onnx_folding import fold_norm_through_pool, move_relu_before_pool
from fer_edge.export.weights import TrainedNetwork
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec
from fer_edge.synthetic_faces import generate_faces

OPSET = 18
#: Readable by TensorRT 10.3 and ONNX Runtime 1.18.
IR_VERSION = 9
MAX_ABS_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class ExportReport:
    """How far ONNX Runtime is from PyTorch on the same faces."""

    max_abs_difference: float
    same_argmax: bool
    faces: int
    real_faces: bool
    folded_norms: int


def export_onnx(
    trained: TrainedNetwork, path: Path, faces: Sequence[np.ndarray] | None = None
) -> ExportReport:
    """Write ``trained`` as ONNX to ``path``.

    Parameters
    ----------
    trained : TrainedNetwork
        Network, weights and spec.
    path : Path
        Where the file goes; it appears only if the check passes.
    faces : sequence of np.ndarray, optional
        Face crops for the check, uint8 BGR or gray. Generated ones are used if there are none.

    Raises
    ------
    ExportError
        If an output of ONNX Runtime differs from PyTorch's by more than 1e-4, or the class does.
    """
    module = trained.module.eval()
    model = _to_onnx(module, trained.spec)
    folded = fold_norm_through_pool(model)
    move_relu_before_pool(model)
    _tidy(model)
    onnx.checker.check_model(model, full_check=True)
    crops = list(faces) if faces is not None else list(generate_faces(8))
    with whole_file(path) as part:
        onnx.save(model, part)
        difference, same = _compare(module, part, prepare_batch(crops, trained.spec), trained.spec)
        if not difference <= MAX_ABS_DIFFERENCE or not same:
            raise ExportError(
                f"the ONNX file differs from PyTorch by {difference:.2e} (at most {MAX_ABS_DIFFERENCE:.0e} is accepted, "
                f"same classes: {same}): {path.name} was not written"
            )
    return ExportReport(difference, same, len(crops), faces is not None, folded)


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
    """The exporter warns about its own internals and about torchvision, which we do not use."""
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
    """Name nodes and tensors after the module they come from; drop the exporter's notes.

    The notes hold source paths of the exporting machine. The names are what ranges, sensitivity
    tables and engine layer reports show.
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


def _compare(module: nn.Module, path: Path, batch: np.ndarray, spec: ModelSpec) -> tuple[float, bool]:
    """Return the largest difference over all outputs and whether every class agrees; batch 1 included."""
    session = BACKENDS["onnxruntime"].open(path, SessionOptions())
    with torch.inference_mode():
        outputs = module(torch.from_numpy(batch))
    expected = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    difference = 0.0
    same = True
    for part in (slice(None), slice(0, 1)):
        found = session.run(batch[part])
        for name, reference in zip(spec.outputs, expected, strict=True):
            difference = max(difference, float(np.abs(found[name] - reference.numpy()[part]).max()))
        same &= bool((found["logits"].argmax(1) == expected[0].numpy()[part].argmax(1)).all())
    session.close()
    return difference, same

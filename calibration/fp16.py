"""FP16: a copy of the FP32 model that computes in half precision where that is finite and accurate.

TensorRT's strongly typed networks, the only kind in version 11, take FP16 as FP16 tensors in the ONNX. Half
precision ends at 65504 and keeps three digits. Outputs and coordinates always stay in FP32, as do layers whose
values come near 65504 on real faces. Masks, softmax, normalisation and attention return to FP32, in that
order, until the logits are close to those of FP32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from fer_edge._utils.onnx_files import remove_unused_initializers
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.calibration.comparison.fidelity import Fidelity, measure_fidelity
from fer_edge.calibration.placement.graph import Graph, infer_values
from fer_edge.calibration.placement.rules import FLOAT_RULES
from fer_edge.calibration.ranges.activations import batches, run_model
from fer_edge.datasets import FaceDataset
from fer_edge.errors import GateError
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.spec import ModelSpec

#: A model below this cosine is refused; rounding to three digits alone stays far above it.
MIN_COSINE = 0.999
_MAX_FP16 = float(np.finfo(np.float16).max)
#: Safety margin: faces of a camera differ from those of the check.
_MARGIN = 2.0
_CHECKED_AT_ONCE = 2
#: Inputs that must be FP32 in any precision of the node: the region and scales of Resize.
_FLOAT_INPUTS = {"Resize": (1, 2)}
#: Rules whose layers compute in FP32 in every network.
ALWAYS_FLOAT = ("head", "geometry")
#: Rules whose layers return to FP32 one after the other, until the logits are accurate.
_IN_DOUBT = ("mask product", "softmax", "normalisation", "self-attention")


@dataclass(frozen=True)
class HalfAttempt:
    """One conversion that was too far from FP32; ``fidelity`` is ``None`` if the logits are not finite."""

    float_rules: tuple[str, ...]
    fidelity: Fidelity | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, in the form of a candidate of the report."""
        values = {"agreement": None, "logit_cosine": None, "snr_db": None}
        if self.fidelity is not None:
            values = asdict(self.fidelity)
        return {"name": f"in FP32: {', '.join(self.float_rules)}", **values, "chosen": False}


@dataclass(frozen=True)
class HalfReport:
    """Result of the conversion.

    Attributes
    ----------
    float_rules : tuple of str
        Keys of :data:`fer_edge.calibration.placement.rules.FLOAT_RULES` whose layers compute in FP32.
    overflowing : tuple of str
        Layers that compute in FP32 because their values come near 65504.
    faces : int
        Number of faces in the check.
    fidelity : Fidelity
        Fidelity to FP32 in ONNX Runtime.
    """

    float_rules: tuple[str, ...]
    overflowing: tuple[str, ...]
    faces: int
    fidelity: Fidelity

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def make_half(
    model: Path,
    output: Path,
    spec: ModelSpec,
    faces: FaceDataset,
    least_cosine: float = MIN_COSINE,
    on_attempt: Callable[[int], None] = lambda attempts: None,
) -> HalfReport:
    """Write the FP16 copy of ``model`` to ``output``; its input and outputs stay float32.

    Parameters
    ----------
    model, output : Path
        ONNX files.
    spec : ModelSpec
        Input and output specification.
    faces : FaceDataset
        Faces for the check.
    least_cosine : float
        Smallest accepted mean cosine of the centred logits with those of FP32.
    on_attempt : callable
        Called with the number of conversions tried.

    Raises
    ------
    GateError
        If the logits are not finite or far from those of FP32 in every attempt. Its ``tried`` is a tuple
        of :class:`HalfAttempt`.
    """
    reference = _logits(model, faces, spec)
    proto = onnx.load(model)
    overflowing = overflowing_layers(proto, faces, spec)
    kept: tuple[str, ...] = ALWAYS_FLOAT
    tried: list[HalfAttempt] = []
    for attempt, more in enumerate(((), *((rule,) for rule in _IN_DOUBT))):
        kept += more
        onnx.save(to_half(proto, kept, overflowing), output)
        on_attempt(attempt + 1)
        logits = _logits(output, faces, spec)
        fidelity = measure_fidelity(reference, logits) if np.isfinite(logits).all() else None
        tried.append(HalfAttempt(kept, fidelity))
        if fidelity is not None and fidelity.logit_cosine >= least_cosine:
            onnx.checker.check_model(str(output), full_check=True)
            return HalfReport(kept, tuple(sorted(overflowing)), len(faces), fidelity)
    output.unlink()
    found = (
        "are not finite" if fidelity is None else f"have a cosine of {fidelity.logit_cosine:.5f} with FP32's"
    )
    raise GateError(
        f"{spec.network} does not work in FP16: its logits on {len(faces)} faces {found}, expected a cosine of at least "
        f"{least_cosine}, though {', '.join(kept)} and {len(overflowing)} layers that overflow compute in FP32. "
        "Fix: build with --fp32 or --int8",
        tuple(tried),
    )


def overflowing_layers(model: onnx.ModelProto, faces: FaceDataset, spec: ModelSpec) -> frozenset[str]:
    """Return the nodes of an FP32 model whose values are near or beyond the range of half precision.

    The FP32 model is measured, since ONNX Runtime computes FP16 on a CPU in FP32 and may not round in between.
    """
    own = {name: node.name for node in model.graph.node for name in node.output}
    tapped = onnx.inliner.inline_local_functions(model)
    # Values inside a function count for the node that calls it.
    calls = [node.name for node in model.graph.node if node.domain]
    names = [v.name for v in infer_values(tapped) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    made = {name for node in tapped.graph.node for name in node.output}
    known = {value.name for value in tapped.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n in made - known)
    found: set[str] = set()
    for _, values in run_model(tapped, batches(faces, spec, size=_CHECKED_AT_ONCE)):
        for name, value in values.items():
            if not np.abs(value).max(initial=0) <= _MAX_FP16 / _MARGIN:
                found.update([own[name]] if name in own else calls)
        del values, value  # free them before the next batch runs
    return frozenset(found)


def to_half(
    model: onnx.ModelProto, float_rules: Iterable[str], float_layers: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a copy in FP16, except for layers of ``float_rules`` and ``float_layers``, which compute in FP32."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    kept = {id(node) for rule in float_rules for node in FLOAT_RULES[rule].find(graph)}
    kept |= {id(node) for node in graph.nodes if node.name in float_layers}
    _Converter(result, graph, kept).convert()
    return result


class _Converter:
    """Rewrites one model in place: every floating-point tensor gets the type of its producer."""

    def __init__(self, model: onnx.ModelProto, graph: Graph, kept: set[int]) -> None:
        self.model, self.graph, self.kept = model, graph, kept
        self.floating = {
            value.name
            for value in infer_values(model)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        #: FP16 tensors among the outputs of the nodes visited so far.
        self.half: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.casts: set[str] = set()

    def convert(self) -> None:
        """Visit the nodes in order; insert a cast where the types of producer and consumer differ."""
        for node in self.graph.nodes:
            in_half = id(node) not in self.kept
            for position, name in enumerate(node.input):
                if name in self.floating:
                    wanted = in_half and position not in _FLOAT_INPUTS.get(node.op_type, ())
                    node.input[position] = self._as(name, wanted)
            self.nodes.append(node)
            if in_half:
                _change_attributes(node)
                self.half.update(name for name in node.output if name in self.floating)
        self._cast_outputs()
        del self.model.graph.node[:]
        self.model.graph.node.extend(self.nodes)
        del self.model.graph.value_info[:]
        remove_unused_initializers(self.model)

    def _as(self, name: str, half: bool) -> str:
        """Return the name of a tensor or constant in the wanted type."""
        if half == (name in self.half):
            return name
        other = f"{name}.{'fp16' if half else 'fp32'}"
        if other not in self.casts:
            self.casts.add(other)
            constant = self.graph.constants.get(name)
            if constant is not None:
                values = numpy_helper.to_array(constant).clip(-_MAX_FP16, _MAX_FP16)
                self.model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), other))
            else:
                kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
                self.nodes.append(helper.make_node("Cast", [name], [other], f"{other}/Cast", to=kind))
        return other

    def _cast_outputs(self) -> None:
        """Cast outputs to float32 under their own names."""
        for output in self.model.graph.output:
            name = output.name
            if name not in self.half:
                continue
            inner = f"{name}.fp16"
            for node in self.nodes:
                for names in (node.input, node.output):
                    for i, used in enumerate(names):
                        if used == name:
                            names[i] = inner
            cast = helper.make_node("Cast", [inner], [name], f"{name}/Cast", to=onnx.TensorProto.FLOAT)
            self.nodes.append(cast)


def _change_attributes(node: onnx.NodeProto) -> None:
    """Change constants inside a node, and casts to FP32, to FP16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def _logits(model: Path, faces: FaceDataset, spec: ModelSpec) -> np.ndarray:
    session = BACKENDS["onnxruntime"].open(model, SessionOptions())
    try:
        return session_logits(session, faces, spec)
    finally:
        session.close()

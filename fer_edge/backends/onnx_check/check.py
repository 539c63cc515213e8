"""Reject harmful ONNX files before a backend loads them.

While loading, a runtime folds constants, reads external data and expands functions: a file of a few hundred bytes can
exhaust the memory, read arbitrary files, or never finish. The networks of FER-Edge use only a small part of ONNX, so
everything else is rejected, and memory and work of the rest are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_edge.backends.onnx_check.light import LightModel, Refusal, lighten
from fer_edge.backends.onnx_check.parts import check_names, check_node, read_constant, read_tensor
from fer_edge.backends.onnx_check.shapes import Value, count_work, infer, make_value
from fer_edge.errors import BundleError

if TYPE_CHECKING:
    import onnx

    from fer_edge.spec import ModelSpec

#: Domain of our attention operator, see ``export/networks/attention_op.py``.
OWN_DOMAIN = "fer_edge"
#: Operators of the networks and of their Q/DQ dialects. None contains a subgraph, and the work of each is known.
OPERATORS = frozenset(
    """
    Abs Add And AveragePool BatchNormalization Cast Clip Concat Constant Conv ConvTranspose
    DequantizeLinear Div Dropout Equal Exp Expand Flatten Floor Gather Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mul Neg Not Or PRelu Pad Pow QuantizeLinear
    Reciprocal ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Sigmoid
    Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
#: Operators that may have only constant inputs, which a runtime folds while it loads the file.
FOLDABLE = OPERATORS - {
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "AveragePool",
    "MaxPool",
    "Resize",
    "GridSample",
}
_OPSETS = range(13, 24)
#: The ensemble of seven networks has 1,664, in INT8 about twice as many. OpenVINO takes minutes for a chain of 20,000.
_MAX_NODES = 10_000
_MAX_CONSTANTS = 20_000
_MAX_FUNCTIONS = 4
_MAX_NODES_PER_FUNCTION = 64
_MAX_OUTPUTS = 16
#: A folded constant may have the size of the file, or this if it is larger; all together ``_MAX_FOLDED`` times as much.
_SMALL_CONSTANT_BYTES = 16 << 20
_MAX_FOLDED = 8
#: Activations at batch 1: one tensor, and all together.
_MAX_TENSOR_BYTES = 1 << 30
_ALL_TENSORS_BYTES = 16 << 30
#: Multiply-adds at batch 1; our largest network needs 62e9.
_MAX_WORK = 10**12


@dataclass(frozen=True)
class ModelShapes:
    """Shapes of the only input and of the outputs by name of a model, at batch 1 if the batch is dynamic."""

    input: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]


def check_model(content: bytes, where: str, free_side_px: int | None = None) -> ModelShapes:
    """Return the shapes of an ONNX file, or reject it.

    Takes some milliseconds, and memory of a fraction of the file size.

    Parameters
    ----------
    content : bytes
        The file, as the backend will load it.
    where : str
        Name of the file, for the error.
    free_side_px : int or None
        Size assumed for dynamic input dimensions other than the batch; ``None`` rejects these.

    Raises
    ------
    BundleError
        If the file is damaged; has external data, subgraphs, several inputs, unsupported operators, nested functions,
        constants whose data do not fit their shapes, or data-dependent shapes; or needs far more memory or time than
        any network of FER-Edge.
    """
    try:
        light = lighten(content)
        return _Check(_parse(light), light, len(content), free_side_px).run()
    except Refusal as refusal:
        raise BundleError(
            f"{where} is rejected: {refusal}. Fix: build the bundle again with fer-edge build, or get it from a trusted source"
        ) from refusal


def check_contract(shapes: ModelShapes, spec: ModelSpec, where: str) -> None:
    """Reject a model whose input or outputs do not fit a spec.

    Raises
    ------
    BundleError
        If the input has another shape, an output is missing, or there is not one logit per class.
    """
    expected = {"input": spec.input_shape, "logits": (len(spec.class_names),)}
    found = {"input": shapes.input[1:], "logits": shapes.outputs.get("logits", ())[1:]}
    missing = [name for name in spec.outputs if name not in shapes.outputs]
    if found != expected or missing:
        raise BundleError(
            f"{where} does not fit its model spec: expected {expected} and the outputs {', '.join(spec.outputs)}, "
            f"found {found} and {', '.join(shapes.outputs)!r:.200}. Fix: build the bundle again with fer-edge build"
        )


def _parse(light: LightModel) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.ModelProto.FromString(light.content)
    except Exception as error:  # protobuf's DecodeError, whose module differs between versions
        raise Refusal("the file is damaged or not ONNX") from error


class _Check:
    """Check of one file; ``run`` walks the graph from input to outputs."""

    def __init__(
        self, model: onnx.ModelProto, light: LightModel, file_bytes: int, free_side_px: int | None
    ) -> None:
        self._model, self._graph, self._light = model, model.graph, light
        self._free_side_px = free_side_px
        self._largest_constant = max(file_bytes, _SMALL_CONSTANT_BYTES)
        self._folded_bytes = self._tensor_bytes = self._work = self._nodes = 0

    def run(self) -> ModelShapes:
        opset = self._opset()
        functions = self._functions()
        given = self._input()
        values = self._constants() | given
        for node in self._graph.node:
            self._compute(node, values, opset, functions)
        outputs = [output.name for output in self._graph.output]
        if not 1 <= len(outputs) <= _MAX_OUTPUTS or len(set(outputs)) != len(outputs):
            raise Refusal(f"expected 1 to {_MAX_OUTPUTS} outputs of different names, found {len(outputs)}")
        for name in outputs:
            if name not in values:
                raise Refusal(f"no node computes its output {name!r:.80}")
        (taken,) = given.values()
        return ModelShapes(taken.shape, {name: values[name].shape for name in outputs})

    def _opset(self) -> int:
        if self._model.training_info:
            raise Refusal("it contains training information")
        versions = {entry.domain: entry.version for entry in self._model.opset_import}
        if "ai.onnx" in versions:
            versions.setdefault("", versions.pop("ai.onnx"))
        unknown = sorted(versions.keys() - {"", OWN_DOMAIN})
        if unknown or len(versions) > len(self._model.opset_import) or versions.get("") not in _OPSETS:
            found = ", ".join(f"{domain!r:.40} {version}" for domain, version in versions.items())
            raise Refusal(
                f"expected ONNX opset {_OPSETS[0]} to {_OPSETS[-1]} and the domain {OWN_DOMAIN}, found {found:.200}"
            )
        return versions[""]

    def _functions(self) -> dict[str, onnx.FunctionProto]:
        functions = {function.name: function for function in self._model.functions}
        if len(self._model.functions) > _MAX_FUNCTIONS or len(functions) < len(self._model.functions):
            raise Refusal(
                f"expected at most {_MAX_FUNCTIONS} functions of different names, found {len(self._model.functions)}"
            )
        for name, function in functions.items():
            versions = [entry.version for entry in function.opset_import if entry.domain == ""]
            if (
                function.domain != OWN_DOMAIN
                or len(function.node) > _MAX_NODES_PER_FUNCTION
                or function.attribute
                or function.attribute_proto
                or len(versions) != 1
                or versions[0] not in _OPSETS
            ):
                raise Refusal(f"its function {name!r:.80} is not one of FER-Edge")
            if any(node.domain for node in function.node):
                raise Refusal(f"its function {name!r:.80} calls another function")
            check_names((*function.input, *function.output))
        return functions

    def _constants(self) -> dict[str, Value]:
        graph = self._graph
        if graph.sparse_initializer:
            raise Refusal("it has sparse constants")
        if len(graph.initializer) > _MAX_CONSTANTS:
            raise Refusal(f"expected at most {_MAX_CONSTANTS} constants, found {len(graph.initializer)}")
        if len(graph.initializer) != len(self._light.raw_bytes):
            raise Refusal("the file is damaged or not ONNX")
        values = {}
        for tensor, raw_bytes in zip(graph.initializer, self._light.raw_bytes, strict=True):
            check_names((tensor.name,))
            if tensor.name in values or not tensor.name:
                raise Refusal(f"a constant has no name, or two have the name {tensor.name!r:.80}")
            values[tensor.name] = read_tensor(tensor, raw_bytes)
        return values

    def _input(self) -> dict[str, Value]:
        constants = {tensor.name for tensor in self._graph.initializer}
        inputs = [value for value in self._graph.input if value.name not in constants]
        if len(self._graph.input) != 1 or not inputs:
            raise Refusal(f"expected 1 input, found {len(self._graph.input)}")
        kind = inputs[0].type.tensor_type
        batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [0]
        if self._free_side_px is not None:
            sizes = [size or self._free_side_px for size in sizes]
        if not sizes or min(sizes) < 1:
            raise Refusal(
                f"all dimensions of its input except the batch must be static, found {[batch, *sizes][:10]}"
            )
        check_names((inputs[0].name,))
        value = make_value("its input", kind.elem_type, [batch or 1, *sizes], constant=False)
        self._count_tensor("its input", value)
        return {inputs[0].name: value}

    def _compute(
        self,
        node: onnx.NodeProto,
        values: dict[str, Value],
        opset: int,
        functions: Mapping[str, onnx.FunctionProto],
    ) -> None:
        """Add the outputs of a node to ``values``."""
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise Refusal(f"it has more than {_MAX_NODES} nodes")
        check_node(node)
        for name in filter(None, node.input):
            if name not in values:
                raise Refusal(f"a node reads {name!r:.80}, which no earlier node computes")
        if node.domain in ("", "ai.onnx"):
            outputs = self._apply(node, values, opset)
        elif node.domain == OWN_DOMAIN and node.op_type in functions:
            outputs = self._call(node, values, functions[node.op_type])
        else:
            raise Refusal(f"it has the unknown operator {node.domain!r:.40}::{node.op_type!r:.40}")
        for name in outputs:
            if name in values:
                raise Refusal(f"two nodes compute {name!r:.80}")
        values.update(outputs)

    def _apply(self, node: onnx.NodeProto, values: Mapping[str, Value], opset: int) -> dict[str, Value]:
        if node.op_type not in OPERATORS:
            raise Refusal(f"it has the operator {node.op_type!r:.40}, which no network of FER-Edge uses")
        if node.op_type == "Constant":
            return read_constant(node)
        outputs = infer(node, values, opset)
        for name, value in outputs.items():
            if not value.constant:
                self._count_tensor(f"{name!r:.80}", value)
            elif node.op_type not in FOLDABLE:
                raise Refusal(f"{name!r:.80} is a constant computed by {node.op_type}")
            else:
                self._count_constant(name, value)
        self._work += count_work(node, values, outputs)
        if self._work > _MAX_WORK:
            raise Refusal(f"it needs more than {_MAX_WORK:.0e} operations per face")
        return outputs

    def _call(
        self, node: onnx.NodeProto, values: Mapping[str, Value], function: onnx.FunctionProto
    ) -> dict[str, Value]:
        """Compute the body of a function, whose nodes call no functions."""
        if node.attribute or len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise Refusal(
                f"it calls {function.name!r:.80} with attributes, or with too many inputs or outputs"
            )
        inner = {
            formal: values[given] for formal, given in zip(function.input, node.input, strict=False) if given
        }
        opset = next(entry.version for entry in function.opset_import if entry.domain == "")
        for part in function.node:
            self._compute(part, inner, opset, {})
        pairs = [
            (given, formal) for given, formal in zip(node.output, function.output, strict=False) if given
        ]
        for _, formal in pairs:
            if formal not in inner:
                raise Refusal(f"its function {function.name!r:.80} does not compute {formal!r:.80}")
        return {given: inner[formal] for given, formal in pairs}

    def _count_constant(self, name: str, value: Value) -> None:
        self._folded_bytes += value.size_bytes
        if (
            value.size_bytes > self._largest_constant
            or self._folded_bytes > _MAX_FOLDED * self._largest_constant
        ):
            raise Refusal(
                f"the constant {name!r:.80} expands to {value.size_bytes} bytes while the file is loaded"
            )

    def _count_tensor(self, what: str, value: Value) -> None:
        self._tensor_bytes += value.size_bytes
        if value.size_bytes > _MAX_TENSOR_BYTES or self._tensor_bytes > _ALL_TENSORS_BYTES:
            raise Refusal(f"{what} needs {value.size_bytes} bytes per face, of {self._tensor_bytes} in total")

"""Refuses ONNX files that would do harm when they are loaded, before a backend sees them.

A runtime computes constants while it loads, reads other files that a model names, and expands functions: a file of a
few hundred bytes can fill the memory, read what it should not, or never end. The networks of FER-Edge need none of
that, so what they do not need is refused, and the rest is measured.
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

#: Domain of our attention, see ``export/networks/attention_op.py``.
OWN_DOMAIN = "fer_edge"
#: What the networks and their Q/DQ forms are made of. None holds a graph of its own, and the work of each is known.
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
#: Of these, what may be computed of constants alone, which happens while a file is loaded.
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
#: A constant that is computed may be as large as the file, or this; all of them together so many times as much.
_SMALL_CONSTANT_BYTES = 16 << 20
_MAX_FOLDED = 8
#: What an input leads to, at batch 1: one tensor, and all together.
_MAX_TENSOR_BYTES = 1 << 30
_ALL_TENSORS_BYTES = 16 << 30
#: Multiply-adds at batch 1; our largest network needs 62 thousand million.
_MAX_WORK = 10**12


@dataclass(frozen=True)
class ModelShapes:
    """Sizes of a model's only input and of its outputs by name, at batch 1 where the batch is free."""

    input: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]


def check_model(content: bytes, where: str, free_side_px: int | None = None) -> ModelShapes:
    """Return the shapes of an ONNX file that a network of FER-Edge can be, or refuse it.

    Needs some milliseconds and a fraction of the file's size in memory.

    Parameters
    ----------
    content : bytes
        The file, as it is given to a backend afterwards.
    where : str
        Its name, for the error.
    free_side_px : int or None
        What is taken for sizes of the input that are free beside the batch; ``None`` refuses such.

    Raises
    ------
    BundleError
        If it is damaged; keeps data in other files; has graphs inside nodes, several inputs, other operators,
        functions that call functions, constants whose sizes and data differ, or sizes that are not known before it
        runs; or would need far more memory or time than any network of ours.
    """
    try:
        light = lighten(content)
        return _Check(_parse(light), light, len(content), free_side_px).run()
    except Refusal as refusal:
        raise BundleError(
            f"{where} is not loaded: {refusal}; do not use it, or build the bundle again"
        ) from refusal


def check_contract(shapes: ModelShapes, spec: ModelSpec, where: str) -> None:
    """Refuse a model that does not take or give what a spec says.

    Raises
    ------
    BundleError
        If the input has another size, an output is missing, or the logits are not one per class.
    """
    expected = {"input": spec.input_shape, "logits": (len(spec.class_names),)}
    found = {"input": shapes.input[1:], "logits": shapes.outputs.get("logits", ())[1:]}
    missing = [name for name in spec.outputs if name not in shapes.outputs]
    if found != expected or missing:
        raise BundleError(
            f"{where} does not fit its model spec: expected {expected} and the outputs {', '.join(spec.outputs)}, "
            f"found {found} and {', '.join(shapes.outputs)!r:.200}; build the bundle again"
        )


def _parse(light: LightModel) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.ModelProto.FromString(light.content)
    except Exception as error:  # protobuf's own class, which moved between its versions
        raise Refusal("it is no ONNX file, or is damaged") from error


class _Check:
    """One file; ``run`` goes through it from inputs to outputs."""

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
            raise Refusal(f"it has {len(outputs)} outputs, expected 1 to {_MAX_OUTPUTS} of different names")
        for name in outputs:
            if name not in values:
                raise Refusal(f"no node gives its output {name!r:.80}")
        (taken,) = given.values()
        return ModelShapes(taken.shape, {name: values[name].shape for name in outputs})

    def _opset(self) -> int:
        if self._model.training_info:
            raise Refusal("it is made for training")
        versions = {entry.domain: entry.version for entry in self._model.opset_import}
        if "ai.onnx" in versions:
            versions.setdefault("", versions.pop("ai.onnx"))
        unknown = sorted(versions.keys() - {"", OWN_DOMAIN})
        if unknown or len(versions) > len(self._model.opset_import) or versions.get("") not in _OPSETS:
            found = ", ".join(f"{domain!r:.40} {version}" for domain, version in versions.items())
            raise Refusal(
                f"expected ONNX's operators of version {_OPSETS[0]} to {_OPSETS[-1]} and {OWN_DOMAIN}'s, found {found:.200}"
            )
        return versions[""]

    def _functions(self) -> dict[str, onnx.FunctionProto]:
        functions = {function.name: function for function in self._model.functions}
        if len(self._model.functions) > _MAX_FUNCTIONS or len(functions) < len(self._model.functions):
            raise Refusal(f"it has {len(self._model.functions)} functions, or two of one name")
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
                raise Refusal(f"its function {name!r:.80} is none of ours")
            if any(node.domain for node in function.node):
                raise Refusal(f"its function {name!r:.80} calls functions")
            check_names((*function.input, *function.output))
        return functions

    def _constants(self) -> dict[str, Value]:
        graph = self._graph
        if graph.sparse_initializer:
            raise Refusal("it has sparse constants")
        if len(graph.initializer) > _MAX_CONSTANTS:
            raise Refusal(f"it has {len(graph.initializer)} constants, more than {_MAX_CONSTANTS}")
        if len(graph.initializer) != len(self._light.raw_bytes):
            raise Refusal("it is no ONNX file, or is damaged")
        values = {}
        for tensor, raw_bytes in zip(graph.initializer, self._light.raw_bytes, strict=True):
            check_names((tensor.name,))
            if tensor.name in values or not tensor.name:
                raise Refusal(f"it has two constants of the name {tensor.name!r:.80}, or one without")
            values[tensor.name] = read_tensor(tensor, raw_bytes)
        return values

    def _input(self) -> dict[str, Value]:
        constants = {tensor.name for tensor in self._graph.initializer}
        inputs = [value for value in self._graph.input if value.name not in constants]
        if len(self._graph.input) != 1 or not inputs:
            raise Refusal(f"it has {len(self._graph.input)} inputs, not one")
        kind = inputs[0].type.tensor_type
        batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [0]
        if self._free_side_px is not None:
            sizes = [size or self._free_side_px for size in sizes]
        if not sizes or min(sizes) < 1:
            raise Refusal(f"all sizes of its input but the batch must be fixed, found {[batch, *sizes][:10]}")
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
                raise Refusal(f"a node reads {name!r:.80}, which nothing before it gives")
        if node.domain in ("", "ai.onnx"):
            outputs = self._apply(node, values, opset)
        elif node.domain == OWN_DOMAIN and node.op_type in functions:
            outputs = self._call(node, values, functions[node.op_type])
        else:
            raise Refusal(f"it has the operator {node.domain!r:.40}::{node.op_type!r:.40}, which is unknown")
        for name in outputs:
            if name in values:
                raise Refusal(f"two nodes give {name!r:.80}")
        values.update(outputs)

    def _apply(self, node: onnx.NodeProto, values: Mapping[str, Value], opset: int) -> dict[str, Value]:
        if node.op_type not in OPERATORS:
            raise Refusal(f"it has the operator {node.op_type!r:.40}, which no network of FER-Edge has")
        if node.op_type == "Constant":
            return read_constant(node)
        outputs = infer(node, values, opset)
        for name, value in outputs.items():
            if not value.constant:
                self._count_tensor(f"{name!r:.80}", value)
            elif node.op_type not in FOLDABLE:
                raise Refusal(f"{name!r:.80} is a constant that is computed by {node.op_type}")
            else:
                self._count_constant(name, value)
        self._work += count_work(node, values, outputs)
        if self._work > _MAX_WORK:
            raise Refusal(f"one face takes more than {_MAX_WORK:.0e} operations")
        return outputs

    def _call(
        self, node: onnx.NodeProto, values: Mapping[str, Value], function: onnx.FunctionProto
    ) -> dict[str, Value]:
        """Compute the body of a function. Its nodes call no functions."""
        if node.attribute or len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise Refusal(f"it calls {function.name!r:.80} with what that does not take")
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
                raise Refusal(f"its function {function.name!r:.80} does not give {formal!r:.80}")
        return {given: inner[formal] for given, formal in pairs}

    def _count_constant(self, name: str, value: Value) -> None:
        self._folded_bytes += value.size_bytes
        if (
            value.size_bytes > self._largest_constant
            or self._folded_bytes > _MAX_FOLDED * self._largest_constant
        ):
            raise Refusal(
                f"the constant {name!r:.80} grows to {value.size_bytes} bytes while the file is loaded"
            )

    def _count_tensor(self, what: str, value: Value) -> None:
        self._tensor_bytes += value.size_bytes
        if value.size_bytes > _MAX_TENSOR_BYTES or self._tensor_bytes > _ALL_TENSORS_BYTES:
            raise Refusal(
                f"{what} takes {value.size_bytes} bytes for one face, of {self._tensor_bytes} in all"
            )

"""Graph rewrites that keep the outputs and make a graph easier to quantise."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from fer_edge._utils.onnx_files import remove_unused_initializers


def fold_norm_through_pool(model: onnx.ModelProto) -> int:
    """Fold ``Conv → MaxPool → BatchNormalization`` into the convolution where every scale is positive.

    max(x)·s = max(x·s) holds for s > 0 only. Returns the number of normalisations removed.
    """
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded = 0
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        pool = producers.get(norm.input[0])
        conv = producers.get(pool.input[0]) if pool is not None and pool.op_type == "MaxPool" else None
        if pool is None or conv is None or conv.op_type != "Conv":
            continue
        if uses[pool.output[0]] > 1 or uses[conv.output[0]] > 1:
            continue
        gamma, beta, mean, variance = (_array(constants, name) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        if (scale <= 0).any():
            continue
        weight = _array(constants, conv.input[1])
        bias = _array(constants, conv.input[2]) if len(conv.input) > 2 else np.zeros(len(weight))
        names = [f"{conv.input[1]}.folded", f"{conv.input[1]}.folded_bias"]
        values = [weight * scale[:, None, None, None], (bias - mean) * scale + beta]
        graph.initializer.extend(
            numpy_helper.from_array(v.astype(np.float32), n) for n, v in zip(names, values, strict=True)
        )
        del conv.input[1:]
        conv.input.extend(names)
        pool.output[0] = norm.output[0]
        graph.node.remove(norm)
        folded += 1
    remove_unused_initializers(model)
    return folded


def move_relu_before_pool(model: onnx.ModelProto) -> int:
    """Swap ``MaxPool → Relu`` to ``Relu → MaxPool``: the same numbers, and the ReLU fuses with its convolution.

    Returns the number of swaps.
    """
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    uses = [name for node in graph.node for name in node.input]
    swaps = 0
    for relu in [node for node in graph.node if node.op_type == "Relu"]:
        pool = producers.get(relu.input[0])
        if pool is None or pool.op_type != "MaxPool" or uses.count(pool.output[0]) > 1:
            continue
        before, between, after = pool.input[0], pool.output[0], relu.output[0]
        relu.input[0], relu.output[0], pool.input[0], pool.output[0] = before, between, between, after
        position = list(graph.node).index(pool)
        graph.node.remove(relu)
        graph.node.insert(position, relu)
        swaps += 1
    return swaps


def _array(constants: dict[str, onnx.TensorProto], name: str) -> np.ndarray:
    return numpy_helper.to_array(constants[name]).astype(np.float64)

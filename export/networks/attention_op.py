"""Self-attention operator: PyTorch, the ONNX node, and the node's function body.

One definition for every backend: in ONNX it is the node ``fer_edge::SelfAttention`` with a function
body of standard operators, which ONNX Runtime and OpenVINO inline, and which TensorRT replaces by the
CUDA plugin of the same name.
"""

from __future__ import annotations

import torch
from torch import Tensor

DOMAIN = "fer_edge"
OP_TYPE = "SelfAttention"
OPSET_VERSION = 1

_BODY = """
    rows = Transpose <perm = [0, 2, 1]> (query)
    scores = MatMul (rows, key)
    weights = Softmax <axis = -1> (scores)
    columns = Transpose <perm = [0, 2, 1]> (weights)
    mixed = MatMul (value, columns)
    scaled = Mul (gamma, mixed)
    out = Add (scaled, residual)"""
_RECEIVED = """
    queries = Constant <value_ints = [1]> ()
    received = ReduceMean <keepdims = 0> (weights, queries)"""


def function_text(with_received: bool = False) -> str:
    """Return the function body as ONNX text.

    ``query``, ``key`` [B, D, N]; ``value``, ``residual`` [B, C, N]; ``gamma`` scalar → ``out`` [B, C, N] and,
    if asked for, ``received`` [B, N], see :func:`self_attention_received`. A node has the outputs of its
    function, no fewer: shape inference refuses less.
    """
    outputs, extra = ("out, received", _RECEIVED) if with_received else ("out", "")
    return f"""
<opset_import: ["" : 18], domain: "{DOMAIN}">
{OP_TYPE} (query, key, value, residual, gamma) => ({outputs})
{{{_BODY}{extra}
}}
"""


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """Return e = softmax(QᵀK) over the keys, no scaling: ``[B, N, N]``, row i is the attention of location i."""
    return torch.softmax(query.transpose(1, 2) @ key, dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, residual: Tensor, gamma: Tensor) -> Tensor:
    """Return γ · V eᵀ + residual (Jalal et al.)."""
    return gamma * (value @ attention_weights(query, key).transpose(1, 2)) + residual


def self_attention(query: Tensor, key: Tensor, value: Tensor, residual: Tensor, gamma: Tensor) -> Tensor:
    """Compute :func:`attend`; during ONNX export a single node that keeps its name."""
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP_TYPE}",
            (query, key, value, residual, gamma),
            dtype=residual.dtype,
            shape=residual.shape,
            version=OPSET_VERSION,
        )
    return attend(query, key, value, residual, gamma)


def self_attention_received(
    query: Tensor, key: Tensor, value: Tensor, residual: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute :func:`self_attention` and the attention that each location receives, the mean of e over its rows ``[B, N]``.

    During ONNX export a single node with two outputs, which shares the weights between them.
    """
    if torch.compiler.is_exporting():
        received_shape = (residual.shape[0], residual.shape[2])
        out, received = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{OP_TYPE}",
            (query, key, value, residual, gamma),
            dtypes=(residual.dtype, residual.dtype),
            shapes=(residual.shape, received_shape),
            version=OPSET_VERSION,
        )
        return out, received
    return attend(query, key, value, residual, gamma), attention_weights(query, key).mean(dim=1)

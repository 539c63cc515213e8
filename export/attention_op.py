"""The self-attention operator: PyTorch, the ONNX node, and the node's function body.

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

#: ``query``, ``key`` [B, D, N]; ``value``, ``residual`` [B, C, N]; ``gamma`` scalar → [B, C, N].
FUNCTION_TEXT = f"""
<opset_import: ["" : 18], domain: "{DOMAIN}">
{OP_TYPE} (query, key, value, residual, gamma) => (out)
{{
    rows = Transpose <perm = [0, 2, 1]> (query)
    scores = MatMul (rows, key)
    weights = Softmax <axis = -1> (scores)
    columns = Transpose <perm = [0, 2, 1]> (weights)
    mixed = MatMul (value, columns)
    scaled = Mul (gamma, mixed)
    out = Add (scaled, residual)
}}
"""


def attend(query: Tensor, key: Tensor, value: Tensor, residual: Tensor, gamma: Tensor) -> Tensor:
    """Return γ · V softmax(QᵀK)ᵀ + residual, softmax over the keys, no scaling (Jalal et al.)."""
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    return gamma * (value @ weights.transpose(1, 2)) + residual


def self_attention(query: Tensor, key: Tensor, value: Tensor, residual: Tensor, gamma: Tensor) -> Tensor:
    """:func:`attend`; during ONNX export a single node that keeps its name."""
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP_TYPE}",
            (query, key, value, residual, gamma),
            dtype=residual.dtype,
            shape=residual.shape,
            version=OPSET_VERSION,
        )
    return attend(query, key, value, residual, gamma)

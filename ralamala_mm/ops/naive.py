"""The three attentions as the papers write them, in fp32: the reference for every faster path.

RALA: "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, arXiv 2411.07635.
MALA: "Rectifying Magnitude Neglect in Linear Attention", ICCV 2025, arXiv 2507.00698.

Each takes q, k, v of shape `[B, N, L, D]` (batch, heads, tokens, channels per head) and the `rotary_table`
of the token grid, and returns `[B, N, L, D]` in the dtype of q.
With φ(t) = elu(t) + 1, s = D^(-1/2), ε = 1e-6, and R the rotary turn of a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .numerics import EPSILON, full_precision
from .rotary import RotaryTable


def feature_map(x: Tensor) -> Tensor:
    """φ(t) = elu(t) + 1, positive everywhere."""
    return F.elu(x) + 1


def rotate(x: Tensor, rotary: RotaryTable) -> Tensor:
    """R(x): turns each channel pair (a, b) to (a·cos − b·sin, b·cos + a·sin)."""
    cos, sin = (torch.stack([table, table], dim=-1).flatten(-2) for table in rotary.over_grid())  # [L, D]
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + swapped * sin


@full_precision
def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """out_i = Σ_j softmax_j(s · R(q_i) R(k_j)ᵀ) v_j, with the L×L weights written out."""
    scale = q.shape[-1] ** -0.5
    weights = (scale * rotate(q, rotary) @ rotate(k, rotary).mT).softmax(dim=-1)  # [B, N, L, L]
    return weights @ v


@full_precision
def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Rank-augmented linear attention: keys are reweighted by how much the mean query asks for them.

    α_j = L · softmax_j(s · mean_i(φ(q_i)) · φ(k_j)),  κ_j = α_j φ(k_j)
    out_i = R(φ(q_i)) [1/L Σ_j R(κ_j)ᵀ v_j] / (φ(q_i) · mean_j(κ_j) + ε)
    """
    q, k = feature_map(q), feature_map(k)
    length, scale = q.shape[-2], q.shape[-1] ** -0.5
    alpha = length * (scale * q.mean(dim=-2, keepdim=True) @ k.mT).softmax(dim=-1)  # [B, N, 1, L]
    k = alpha.mT * k
    normalizer = q @ k.mean(dim=-2, keepdim=True).mT + EPSILON  # [B, N, L, 1]
    buffer = rotate(k, rotary).mT @ v / length  # [B, N, D, D]
    return rotate(q, rotary) @ buffer / normalizer


@full_precision
def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Magnitude-aware linear attention: a scale and an offset that depend on the query's length bring it back.

    z_i = s · φ(q_i) · mean_j(φ(k_j))
    out_i = R(φ(q_i)) [s/L Σ_j R(φ(k_j))ᵀ v_j] · (1 + 1/(z_i + ε)) − z_i · mean_j(v_j)
    """
    q, k = feature_map(q), feature_map(k)
    length, scale = q.shape[-2], q.shape[-1] ** -0.5
    magnitude = scale * q @ k.mean(dim=-2, keepdim=True).mT  # [B, N, L, 1]
    buffer = scale * rotate(k, rotary).mT @ v / length  # [B, N, D, D]
    attended = rotate(q, rotary) @ buffer * (1 + 1 / (magnitude + EPSILON))
    return attended - magnitude * v.mean(dim=-2, keepdim=True)

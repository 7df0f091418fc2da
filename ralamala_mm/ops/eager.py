"""The attentions of `naive` in fewer passes over memory, with PyTorch's own operators.

Same arguments and results as in `naive`. They are fastest when the channels of a token lie side by side in memory
(any strides over batch, heads and tokens), as they do in a channels-last `qkvo` projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import naive
from .numerics import EPSILON, at_least_fp32, full_precision, recompute, with_adjacent_channels
from .rotary import RotaryTable


def feature_map(x: Tensor) -> Tensor:
    """φ(t) = elu(t) + 1; elu's gradient is taken from its input, so that its output can be overwritten."""
    return F.elu(x).add_(1)


def rotate(x: Tensor, rotary: RotaryTable) -> Tensor:
    """R(x) in one pass: a channel pair is a complex number and its turn a factor e^(i·angle)."""
    # Compilers make one pass of real arithmetic, and none of complex; exported graphs are for any runtime.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return naive.rotate(x, rotary)
    x = with_adjacent_channels(x)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotary.turns).flatten(-2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Turned in fp32 and attended in the dtype of q by fused kernels, which keep no L×L weights."""
    q, k = (rotate(at_least_fp32(x), rotary).to(x.dtype) for x in (q, k))
    return F.scaled_dot_product_attention(q, k, with_adjacent_channels(v))


def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """RALA; of large maps only q, k, v are kept for the backward pass (see `recompute`)."""
    return recompute(_rala, q, k, v, rotary)


def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """MALA; of large maps only q, k, v are kept for the backward pass (see `recompute`)."""
    return recompute(_mala, q, k, v, rotary)


@full_precision
def _rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """RALA with every factor that belongs to a token pulled out of the sums over channels."""
    q, k = feature_map(q), feature_map(k)
    scale = q.shape[-1] ** -0.5
    # α/L is the softmax itself: it weighs the key in both sums, and 1/L needs no pass of its own.
    weights = (k @ (scale * q.mean(dim=-2)).unsqueeze(-1)).softmax(dim=-2)  # [B, N, L, 1]
    normalizer = q @ (k.mT @ weights) + EPSILON  # [B, N, L, 1]
    buffer = rotate(k, rotary).mT @ (weights * v)  # [B, N, D, D]
    return rotate(q, rotary) @ buffer / normalizer


@full_precision
def _mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """MALA with the scale s/L applied to the D×D buffer and the offset as one outer product."""
    q, k = feature_map(q), feature_map(k)
    length, scale = q.shape[-2], q.shape[-1] ** -0.5
    magnitude = q @ (scale * k.mean(dim=-2)).unsqueeze(-1)  # [B, N, L, 1]
    buffer = rotate(k, rotary).mT @ v * (scale / length)  # [B, N, D, D]
    attended = rotate(q, rotary) @ buffer * (1 + 1 / (magnitude + EPSILON))
    return torch.addcmul(attended, magnitude, v.mean(dim=-2, keepdim=True), value=-1)

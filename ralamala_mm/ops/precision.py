"""What the attentions share about precision: sums over tokens and divisions happen in fp32, also under autocast."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

# Keeps the normalisers of the linear attentions away from zero; the value of the released models.
EPSILON = 1e-6


def at_least_fp32(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs `attention(q, k, v, …)` in at least fp32 with autocast off and returns the dtype of q."""

    @wraps(attention)
    def run(q: Tensor, k: Tensor, v: Tensor, *args) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            return attention(at_least_fp32(q), at_least_fp32(k), at_least_fp32(v), *args).to(q.dtype)

    return run


def compute_dtype(x: Tensor) -> torch.dtype:
    """What convolutions and matrix products of x are computed in: autocast's dtype where it is on, else that of x."""
    kind = x.device.type
    if hasattr(torch, 'get_autocast_dtype'):  # PyTorch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else x.dtype
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else x.dtype

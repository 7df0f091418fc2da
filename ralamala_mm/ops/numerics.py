"""What the backends share: precision, memory layout, and activation checkpointing."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Keeps the normalizers of the linear attentions away from zero; the value of the released models.
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


def empty_tokens(like: Tensor) -> Tensor:
    """`[B, N, L, D]` with the channels of all heads of a token side by side, as the projection after it reads them."""
    batch, heads, length, channels = like.shape
    return like.new_empty(batch, length, heads, channels).transpose(1, 2)


def with_adjacent_channels(x: Tensor) -> Tensor:
    """x, copied if its channels do not lie side by side: complex numbers and PyTorch's fused attention need that.

    The latter would otherwise fall back to L×L weights in silence.
    """
    return x if x.stride(-1) == 1 else x.contiguous()


SMALL = 2**20  # bytes of a map that is kept: computing it again costs more time than its memory is worth


def recompute(function: Callable, *args) -> Tensor | tuple[Tensor, ...]:
    """`function(*args)`, of which only the arguments are kept for the backward pass.

    For cheap functions without randomness whose intermediate maps would take more memory than their arguments. It is
    computed again only as far as the backward pass needs it: a matrix product at its end is not. Where the first argument
    takes less than a megabyte, everything is kept.
    """
    # torch.compile does not take the sizes in a RotaryTable into its checkpoints; it then chooses itself what it keeps.
    compiled_whole = torch.compiler.is_compiling() and not all(isinstance(argument, Tensor) for argument in args)
    # Not a question for a graph of torch.compile, which would be made anew for sizes on the other side of it.
    small = not torch.compiler.is_compiling() and args[0].numel() * args[0].element_size() < SMALL
    if not torch.is_grad_enabled() or compiled_whole or small:
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

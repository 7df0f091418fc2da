"""The attentions by name, on the path in force."""

from types import ModuleType

from torch import Tensor

from . import eager, naive
from .backend import backend_name
from .rotary import RotaryTable


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Softmax attention with rotary position; see `naive.softmax_attention`. All are `[B, N, L, D]`."""
    return _path(q).softmax_attention(q, k, v, rotary)


def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Rank-augmented linear attention; see `naive.rala`. All are `[B, N, L, D]`."""
    return _path(q).rala(q, k, v, rotary)


def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Magnitude-aware linear attention; see `naive.mala`. All are `[B, N, L, D]`."""
    return _path(q).mala(q, k, v, rotary)


def _path(q: Tensor) -> ModuleType:
    name = backend_name(q.device, q.dtype, q.shape[-1])
    if name == 'triton':
        from . import triton  # imported only where it is used: it needs Triton

        return triton
    return {'naive': naive, 'eager': eager}[name]


ATTENTIONS = {function.__name__: function for function in (softmax_attention, rala, mala)}

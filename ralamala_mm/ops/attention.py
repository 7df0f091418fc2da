"""The attentions by name, on the path in force."""

from types import ModuleType

from torch import Tensor

from . import eager, naive
from .backend import backend_name, recompute
from .rotary import RotaryTable

_MODULES: dict[str, ModuleType] = {'naive': naive, 'eager': eager}


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Softmax attention with rotary position; see `naive.softmax_attention`. All are `[B, N, L, D]`."""
    # Not recomputed: PyTorch's fused kernels keep only their arguments and L numbers per head by themselves.
    return _MODULES[backend_name()].softmax_attention(q, k, v, rotary)


def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Rank-augmented linear attention; see `naive.rala`. All are `[B, N, L, D]`."""
    return recompute(_MODULES[backend_name()].rala, q, k, v, rotary)


def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Magnitude-aware linear attention; see `naive.mala`. All are `[B, N, L, D]`."""
    return recompute(_MODULES[backend_name()].mala, q, k, v, rotary)


ATTENTIONS = {function.__name__: function for function in (softmax_attention, rala, mala)}

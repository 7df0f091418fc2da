"""The attentions as pure functions of q, k, v, each in a plain and in faster paths."""

from .attention import ATTENTIONS, mala, rala, softmax_attention
from .backend import BACKEND_VARIABLE, BACKENDS, backend_name, is_naive
from .precision import compute_dtype
from .recompute import recompute
from .rotary import RotaryTable, rotary_frequencies, rotary_table

__all__ = [
    'ATTENTIONS', 'BACKENDS', 'BACKEND_VARIABLE', 'RotaryTable', 'backend_name', 'compute_dtype', 'is_naive', 'mala', 'rala',
    'recompute', 'rotary_frequencies', 'rotary_table', 'softmax_attention',
]

"""The attentions as pure functions of q, k, v, each in a plain and in a faster path."""

from .attention import ATTENTIONS, mala, rala, softmax_attention
from .backend import BACKEND_VARIABLE, BACKENDS, backend_name, preferred_memory_format, recompute
from .rotary import RotaryTable, rotary_frequencies, rotary_table

__all__ = [
    'ATTENTIONS', 'BACKENDS', 'BACKEND_VARIABLE', 'RotaryTable', 'backend_name', 'mala', 'preferred_memory_format', 'rala',
    'recompute', 'rotary_frequencies', 'rotary_table', 'softmax_attention',
]

"""The attentions as pure functions of q, k, v, each in a plain and in faster paths."""

from .dispatch import (
    ATTENTIONS,
    BACKEND_VARIABLE,
    BACKENDS,
    describe_backends,
    has_values,
    is_naive,
    mala,
    rala,
    selected_backend,
    softmax_attention,
)
from .numerics import compute_dtype, recompute
from .rotary import RotaryTable, rotary_frequencies, rotary_table

__all__ = [
    'ATTENTIONS', 'BACKENDS', 'BACKEND_VARIABLE', 'RotaryTable', 'compute_dtype', 'describe_backends', 'has_values', 'is_naive',
    'mala', 'rala', 'recompute', 'rotary_frequencies', 'rotary_table', 'selected_backend', 'softmax_attention',
]

"""The attentions as pure functions of q, k, v, each with a plain and faster backends."""

from .dispatch import (
    ATTENTIONS,
    AUTO,
    BACKENDS,
    attend,
    describe_backends,
    has_values,
    mala,
    rala,
    resolve_backend,
    selected_backend,
    softmax_attention,
)
from .numerics import compute_dtype, recompute
from .rotary import RotaryTable, rotary_frequencies, rotary_table

__all__ = [
    'ATTENTIONS', 'AUTO', 'BACKENDS', 'RotaryTable', 'attend', 'compute_dtype', 'describe_backends', 'has_values', 'mala', 'rala',
    'recompute', 'resolve_backend', 'rotary_frequencies', 'rotary_table', 'selected_backend', 'softmax_attention',
]

"""Which path the attentions and the layers around them take: chosen by itself, or forced by RALAMALA_BACKEND."""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ralamala_mm.errors import OptionError

BACKEND_VARIABLE = 'RALAMALA_BACKEND'
# naive: the released code's way of computing, with nothing recomputed; the baseline of tests and benchmarks.
# eager: the same numbers in fewer passes and less memory, with PyTorch's own operators, on any device.
BACKENDS = ('naive', 'eager')


def backend_name() -> str:
    """The path in force.

    Raises:
        OptionError: `RALAMALA_BACKEND` names a path that does not exist here.
    """
    name = os.environ.get(BACKEND_VARIABLE) or 'eager'
    if name not in BACKENDS:
        raise OptionError(f'{BACKEND_VARIABLE}={name} is not available here; choose one of {", ".join(BACKENDS)}')
    return name


def recompute(function: Callable[..., Tensor], *args) -> Tensor:
    """`function(*args)`, of which only the arguments are kept for the backward pass, except on the naive path.

    For cheap functions without randomness whose intermediate maps would take more memory than their arguments.
    """
    if backend_name() == 'naive' or not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


def preferred_memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last on a CPU, where it makes convolutions 1.0 to 2.2 times as fast and LayerNorm free of copies."""
    if x.device.type == 'cpu' and backend_name() != 'naive':
        return torch.channels_last
    return torch.contiguous_format

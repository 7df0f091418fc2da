"""Trading time for memory: a function whose results are computed again in the backward pass instead of being kept."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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

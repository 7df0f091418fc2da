"""Which path the attentions and the layers around them take: chosen by itself, or forced by RALAMALA_BACKEND."""

import os
import subprocess
import warnings
from functools import cache

import torch

from ralamala_mm.errors import OptionError

BACKEND_VARIABLE = 'RALAMALA_BACKEND'
# naive: the released code's way of computing, with nothing recomputed; the baseline of tests and benchmarks.
# eager: the same numbers in fewer passes and less memory, with PyTorch's own operators, on any device.
# triton: the attentions as kernels for NVIDIA's GPUs; what is around them as in eager.
BACKENDS = ('naive', 'eager', 'triton')


def forced_backend() -> str | None:
    """The path that the environment asks for, None if it leaves the choice to us.

    Raises:
        OptionError: it names a path that does not exist.
    """
    name = os.environ.get(BACKEND_VARIABLE) or None
    if name is not None and name not in BACKENDS:
        raise OptionError(f'{BACKEND_VARIABLE}={name} is not known; choose one of {", ".join(BACKENDS)}')
    return name


def is_naive() -> bool:
    """Whether the layers around the attentions, too, have to compute as the released code does."""
    return forced_backend() == 'naive'


def backend_name(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The path in force for tokens `[B, N, L, head_dim]`.

    Raises:
        OptionError: `RALAMALA_BACKEND` names a path that does not exist, or cannot be taken for such tokens.
    """
    forced = forced_backend()
    if forced == 'triton':
        if reason := why_no_triton(device, dtype, head_dim):
            raise OptionError(f'{BACKEND_VARIABLE}=triton cannot be had here: {reason}')
    elif forced is None:
        return 'triton' if device.type == 'cuda' and why_no_triton(device, dtype, head_dim) is None else 'eager'
    return forced


@cache
def why_no_triton(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """The reason for which the kernels do not run, None if they do."""
    if not hasattr(torch.library, 'custom_op'):
        return f'PyTorch 2.4 or later is needed, and this is {torch.__version__}'
    try:
        import triton  # noqa: F401

        from .triton import launch_for

        launch = launch_for(device, dtype, head_dim)
    except ImportError as error:
        return f'the package triton is needed ({error})'
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # Triton builds a helper with the C compiler
        reason = f'Triton does not work on this machine ({error})'
        warnings.warn(f'{reason}: the attentions take the slower path eager', stacklevel=2)
        return reason
    if launch is None:
        return (f'on {device} there are no kernels for {dtype} with {head_dim} channels per head; they need an NVIDIA GPU of '
                'compute capability 8.0 or later, and for more than 64 channels one with 136 KB of shared memory and half '
                'precision (or TRITON_INTERPRET=1, to try them on a CPU)')
    return None

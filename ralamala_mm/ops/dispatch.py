"""The attentions by name, and which backend computes them: selected automatically, or forced by who calls them.

A Triton kernel is used only once it was compared with the eager backend on the device at hand (`kernel_check`). What
was decided for an attention, device, dtype and head dimension stays for the rest of the process.
"""

import os
import subprocess
import threading
import warnings
from collections.abc import Sequence
from itertools import groupby
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ralamala_mm.errors import OptionError

from . import eager, naive, onednn
from .kernel_check import find_fault
from .rotary import RotaryTable

BACKEND_VARIABLE = 'RALAMALA_BACKEND'
AUTO = 'auto'
# naive: the released code's way of computing, with nothing recomputed; the baseline of tests and benchmarks.
# eager: the same numbers in fewer passes and less memory, with PyTorch's own operators, on any device.
# onednn: eager, with softmax attention through oneDNN, for fp32 on CPUs on which PyTorch's BLAS is slow.
# triton: the attentions as kernels for NVIDIA's GPUs; what is around them as in eager.
BACKENDS = ('naive', 'eager', 'onednn', 'triton')


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable, backend: str | None = None) -> Tensor:
    """Softmax attention with rotary position; see `naive.softmax_attention`. All are `[B, N, L, D]`."""
    return _module('softmax_attention', q, backend).softmax_attention(q, k, v, rotary)


def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable, backend: str | None = None) -> Tensor:
    """Rank-augmented linear attention; see `naive.rala`. All are `[B, N, L, D]`."""
    return _module('rala', q, backend).rala(q, k, v, rotary)


def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable, backend: str | None = None) -> Tensor:
    """Magnitude-aware linear attention; see `naive.mala`. All are `[B, N, L, D]`."""
    return _module('mala', q, backend).mala(q, k, v, rotary)


_WITH_BACKENDS = (softmax_attention, rala, mala)
# By name; families add functions of their own, which compute as they are whatever the backend.
ATTENTIONS = {function.__name__: function for function in _WITH_BACKENDS}


def attend(attention: str, q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable, backend: str | None = None) -> Tensor:
    """The attention of a name in `ATTENTIONS`, on a backend (None: selected automatically) if it has several."""
    function = ATTENTIONS[attention]
    return function(q, k, v, rotary, backend) if function in _WITH_BACKENDS else function(q, k, v, rotary)


def _module(attention: str, q: Tensor, backend: str | None) -> ModuleType:
    name = selected_backend(attention, q.device, q.dtype, q.shape[-1], backend, has_values(q), q.shape[-2])
    if name == 'triton':
        from . import triton  # imported only where it is used: it needs Triton

        return triton
    if name == 'onednn' and onednn.applies(q):
        return onednn
    return naive if name == 'naive' else eager


def has_values(x: Tensor) -> bool:
    """Whether kernels can be run where x is: not for FakeTensors, other subclasses of Tensor, and the device 'meta'."""
    return type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta


def resolve_backend(name: str | None = None) -> str | None:
    """The backend that a model's argument asks for, or else the environment; None leaves the choice to us.

    Args:
        name: one of `BACKENDS`; 'auto' for our choice, whatever the environment says; None for the environment's.

    Raises:
        OptionError: there is no such backend.
    """
    source = BACKEND_VARIABLE if name is None else 'backend'
    name = (os.environ.get(BACKEND_VARIABLE) or AUTO) if name is None else name
    if name not in (AUTO, *BACKENDS):
        raise OptionError(f'{source}={name} is not known; choose one of {", ".join((AUTO, *BACKENDS))}')
    return None if name == AUTO else name


def selected_backend(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int, backend: str | None = None,
                     may_check: bool = True, length: int = 0) -> str:
    """The backend for an attention on tokens `[B, N, L, head_dim]`.

    Args:
        attention: its name in `ATTENTIONS`.
        device: of the tokens.
        dtype: of the tokens.
        head_dim: channels per head.
        backend: the one to use, None or 'auto' for the fastest.
        may_check: whether kernels that were not checked yet may be run now; if not, eager is taken for this call.
        length: L.

    Raises:
        OptionError: the backend asked for does not exist, or is not available for such tokens.
    """
    backend = resolve_backend(backend or AUTO)
    # oneDNN's attention has no part in compiled graphs, and torch.compile cannot trace the question whether it is there.
    may_use_onednn = not torch.compiler.is_compiling() and attention == 'softmax_attention'
    if backend in ('naive', 'eager') or (backend == 'onednn' and not may_use_onednn):
        return 'naive' if backend == 'naive' else 'eager'
    if backend is None and device.type != 'cuda':
        is_faster = may_use_onednn and onednn.is_faster(length) and onednn.obstacle(device, dtype) is None
        return 'onednn' if is_faster else 'eager'
    problem = (onednn.obstacle(device, dtype) if backend == 'onednn'
               else _why_no_kernels(attention, device, dtype, head_dim, may_check, backend is not None))
    if problem is None:
        return backend or 'triton'
    if backend:
        raise OptionError(f'backend {backend} (argument backend, or {BACKEND_VARIABLE}) is not available here: {problem}')
    return 'eager'


def describe_backends(stages: Sequence[tuple[int, str, int]], device: torch.device, dtype: torch.dtype,
                      backend: str | None = None, is_compiled: bool = False) -> str:
    """One line for a log: which backend computes the attention of each stage. Kernels are checked if they were not yet.

    Args:
        stages: number, attention and channels per head of each.
        device: of the tokens.
        dtype: of the tokens.
        backend: the one to use, None for the fastest.
        is_compiled: whether torch.compile makes the graphs, in which oneDNN's attention has no part.

    Raises:
        OptionError: as in `selected_backend`.
    """
    rows = [(_describe(attention, device, dtype, head_dim, backend, is_compiled), number)
            for number, attention, head_dim in stages]
    groups = [(text, [number for _, number in group]) for text, group in groupby(rows, key=lambda row: row[0])]
    parts = [f'{text}, stage {run[0]}' if len(run) == 1 else f'{text}, stages {run[0]}–{run[-1]}' for text, run in groups]
    return f'attention: {"; ".join(parts)} ({device}, {_name(dtype)}{", forced" if backend else ""})'


def _describe(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int, backend: str | None,
              is_compiled: bool) -> str:
    if ATTENTIONS[attention] not in _WITH_BACKENDS:
        return f'{attention} (one implementation)'
    name = selected_backend(attention, device, dtype, head_dim, backend)
    problem = _problems.get((attention, device, dtype, head_dim)) if device.type == 'cuda' else None
    if name == 'triton' and attention == 'softmax_attention':
        return "PyTorch's softmax attention (rotary: triton)"
    if name == 'eager' and problem and backend is None:
        return f'eager ({problem.summary})'
    if name == 'eager' and not is_compiled and selected_backend(
            attention, device, dtype, head_dim, backend, length=onednn.SHORTEST) == 'onednn':
        return f'eager (onednn from {onednn.SHORTEST} to {onednn.LONGEST} tokens)'
    return name


class _Problem(NamedTuple):
    """Why kernels are not used: a few words, a sentence, and whether they were expected to work."""

    summary: str
    sentence: str
    is_fault: bool = False


_problems: dict[tuple[str, torch.device, torch.dtype, int], _Problem | None] = {}  # what was decided; None: kernels are used
_reported: set[str] = set()  # sentences of faults that were reported by a warning
_lock = threading.Lock()


def _why_no_kernels(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int, may_check: bool,
                    forced: bool) -> str | None:
    """Why the kernels do not compute an attention, None if they do."""
    key = (attention, device, dtype, head_dim)
    if key not in _problems:
        if not (may_check and _can_check(device, forced)):  # not recorded: the next call decides
            problem = _find_obstacle(device, dtype, head_dim)
            return problem.sentence if problem else None if forced else 'they were not checked yet'
        with _lock:
            if key not in _problems:
                _problems[key] = _decide(*key)
    problem = _problems[key]
    if problem and problem.is_fault and not forced:
        with _lock:
            is_new = problem.sentence not in _reported
            _reported.add(problem.sentence)
        if is_new:
            warnings.warn(f'{problem.sentence}; the eager backend is used for the rest of this process', RuntimeWarning,
                          stacklevel=2)
    return problem and problem.sentence


# What torch.compiler.assume_constant_result sets, which would import torch._dynamo: a second that not everybody needs.
# torch.compile then calls the function while it traces, outside the graph, so that kernels are checked there too.
_why_no_kernels._dynamo_marked_constant = True


def _can_check(device: torch.device, forced: bool) -> bool:
    """Whether kernels can be run aside at this moment; where they are forced, they are then used unchecked."""
    if device.type != 'cuda' or not torch.cuda.is_available():
        return True
    if torch.cuda.is_current_stream_capturing():  # what the check launches would end the capture
        recorded = 'Triton kernels that were not checked' if forced else 'the eager backend'
        warnings.warn(f'a CUDA graph is captured before the attentions ran once, and records {recorded}; run the model once '
                      'before the capture', RuntimeWarning, stacklevel=2)
        return False
    # In a backward pass the thread that autograd has for this device waits for us, and the check's gradients for the thread.
    return torch._C._current_graph_task_id() == -1


def _decide(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> _Problem | None:
    """Checks the kernels; after the first fault no others are tried."""
    if earlier := next((problem for problem in _problems.values() if problem and problem.is_fault), None):
        return earlier._replace(summary='kernels failed before')
    problem = _find_obstacle(device, dtype, head_dim)
    if problem is None and (fault := find_fault(attention, device, dtype, head_dim)):
        place = f'{device} ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else device
        problem = _Problem('kernels failed their check', f'the Triton kernels of {attention} failed their check on {place}, '
                           f'{_name(dtype)}, {head_dim} channels per head: {fault}', is_fault=True)
    return problem


def _find_obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> _Problem | None:
    """What keeps the kernels from being tried."""
    if not hasattr(torch.library, 'custom_op'):
        return _Problem(f'torch {torch.__version__}', f'PyTorch 2.4 or later is needed, and this is {torch.__version__}')
    try:
        import triton  # noqa: F401

        from .triton import launch_for

        launch = launch_for(device, dtype, head_dim)
    except ImportError as error:
        return _Problem('no package triton', f'the package triton is needed ({error})')
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # Triton builds a helper with the C compiler
        return _Problem('Triton does not work', f'Triton does not work on this machine ({error})', is_fault=True)
    if launch is None:
        return _Problem(
            f'no kernels for {_name(dtype)} with {head_dim} channels per head',
            f'on {device} there are no kernels for {dtype} with {head_dim} channels per head; they need an NVIDIA GPU of compute '
            'capability 8.0 or later, and for more than 64 channels one with 136 KB of shared memory and half precision (or '
            'TRITON_INTERPRET=1, to try them on a CPU)')
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')

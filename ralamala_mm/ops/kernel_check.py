"""The Triton kernels against the eager backend, before their first use on a device: outputs and gradients of a few tokens.

The tolerance is derived, here and in the tests: a result may be twice as far from fp64 as the plain one of the same dtype.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from ralamala_mm.errors import UserError

from . import eager, naive
from .rotary import RotaryTable, rotary_frequencies, rotary_table

SHAPE = (2, 2, 17, 19)  # batch, heads, grid: 323 tokens, the last block of which is not full
RESULTS = ('output', 'gradient of q', 'gradient of k', 'gradient of v')


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest value of the reference; NaN if a result is NaN."""
    return ((result.double() - reference.double()).abs().max() / reference.double().abs().max()).item()


def tolerance(baseline_error: float, dtype: torch.dtype, interpreted: bool = False) -> float:
    """The largest `relative_error` that a result in `dtype` may have, both against fp64.

    Args:
        baseline_error: that of the plain result in the same dtype.
        dtype: of inputs and result.
        interpreted: whether Triton's interpreter computed it, which truncates where a GPU rounds to bf16: twice the error.
    """
    units = 8 if dtype == torch.float32 else 1  # in the last place: fp32 accumulates, half precision rounds once
    limit = 2 * baseline_error + units * torch.finfo(dtype).eps
    return 2 * limit if interpreted and dtype == torch.bfloat16 else limit


@dataclass(frozen=True)
class Agreement:
    """How far one result of a kernel is from fp64, and how far it may be, both as `relative_error`."""

    name: str  # of `RESULTS`
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit  # False for NaN


class KernelError(Exception):
    """A kernel did not compile, or could not be launched."""


def find_fault(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What is wrong with the Triton kernels of an attention, None if they compile, launch and agree.

    Nothing of the caller's is touched: random numbers come from a generator of its own, and a thread of its own has no
    autocast, no inference mode, no hooks on saved tensors and no dispatch modes.
    """
    with ThreadPoolExecutor(1, thread_name_prefix='kernel_check') as pool:
        try:
            results = pool.submit(compare, attention, device, dtype, head_dim).result()
        except KernelError as error:
            return str(error)
    return '; '.join(f'{result.name}: error {result.error:.2e}, tolerance {result.limit:.2e}'
                     for result in results if not result.holds) or None


def compare(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int,
            shape: tuple[int, int, int, int] = SHAPE) -> list[Agreement]:
    """Output and gradients of an attention's kernels against those of the eager backend.

    Args:
        attention: 'rala', 'mala' or 'softmax_attention'; of the latter, the rotary position is ours.
        device: where to compute.
        dtype: of the tokens.
        head_dim: channels per head.
        shape: batch, heads, rows and columns of the token grid.

    Raises:
        KernelError: the kernels do not compile, or cannot be launched.
        UserError: they left the GPU unusable.
    """
    if device.type == 'cuda':
        torch.cuda.set_device(device)  # of this thread; without it, one of rank 0's GPU would be opened by every rank
    qkvo, gradient, rotary = _inputs(device, dtype, head_dim, shape)
    exact = _run(getattr(naive, attention), qkvo.double(), gradient.double(), rotary)
    plain = _run(getattr(eager, attention), qkvo, gradient, rotary)
    try:
        from . import triton

        results = _run(getattr(triton, attention), qkvo, gradient, rotary)
        errors = [relative_error(result, reference) for result, reference in zip(results, exact, strict=True)]
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # compilers, drivers and launchers raise whatever they like
        raise_if_unusable(device, error)
        raise KernelError(f'{type(error).__name__}: {" ".join(str(error).split())[:500]}') from error
    limits = [tolerance(relative_error(result, reference), dtype, triton.is_interpreted())
              for result, reference in zip(plain, exact, strict=True)]
    return [Agreement(*row) for row in zip(RESULTS, errors, limits, strict=True)]


def raise_if_unusable(device: torch.device, fault: Exception) -> None:
    """Raise if a GPU answers nothing any more, as after a kernel's access to a wrong address, so that no other backend helps.

    Args:
        device: where a kernel ran.
        fault: what it raised.

    Raises:
        UserError: it does not answer.
    """
    if device.type != 'cuda':
        return
    try:
        torch.cuda.synchronize(device)
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        raise UserError(f'a Triton kernel left {device} unusable for this process ({" ".join(str(fault).split())[:300]}): start '
                        'again with RALAMALA_BACKEND=eager (or backend=eager where a config sets it), and please '
                        'report it') from error


def _inputs(device: torch.device, dtype: torch.dtype, head_dim: int,
            shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, RotaryTable]:
    """A `qkvo` projection `[B, L, 4, N, D]` and an output's gradient `[B, N, L, D]`, laid out as in the backbones."""
    batch, heads, height, width = shape
    generator = torch.Generator().manual_seed(0)
    qkvo, gradient = (torch.randn(batch, height * width, *sizes, generator=generator, dtype=torch.float32, device='cpu')
                      .to(device, dtype) for sizes in ((4, heads, head_dim), (heads, head_dim)))
    return qkvo, gradient.transpose(1, 2), rotary_table(height, width, rotary_frequencies(head_dim, device))


def _run(attention: Callable, qkvo: Tensor, gradient: Tensor, rotary: RotaryTable) -> tuple[Tensor, ...]:
    """Output and gradients of q, k, v, all `[B, N, L, D]`."""
    q, k, v, _ = qkvo.detach().requires_grad_().permute(2, 0, 3, 1, 4)
    out = attention(q, k, v, rotary)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), gradient)

"""What PyTorch raises when the machine fails, or lacks an operator, in a sentence that says what to do."""

import re
import traceback
from collections.abc import Container

# What the error's type and text hold; what is told; what may be done in any tool; and what where a tool has the option,
# of which `resume` is the training's. The first that matches counts.
_FAILURES = (
    (r'DataLoader worker.*Bus error|unable to [\w ()]+<[^>]*torch_',
     'the shared memory of the data loader workers, /dev/shm, is full',
     'give the container more (docker run --shm-size=8g; on Kubernetes an emptyDir with medium: Memory at /dev/shm)',
     dict(resume='lower train_dataloader.num_workers', workers='lower --workers')),
    (r'DataLoader worker \(pid\S* [\d, ]+\).*(?:signal|exited unexpectedly)|^from a worker: ',
     'a data loader worker died, most often for want of memory', 'give the job more memory (/dev/shm too)',
     dict(resume='lower train_dataloader.num_workers', workers='lower --workers')),
    (r'(?:CUDA|HIP) out of memory',
     "the GPU's memory is full", 'take smaller pictures',
     dict(resume='lower train_dataloader.batch_size (with --auto-scale-lr), or set model.backbone.with_cp=True or --amp',
          batch_size='lower --batch-size', tile='predict smaller tiles with --tile', device='take --device cpu')),
    (r'No space left on device|Disk quota exceeded',
     'the disk that is written to, /tmp or /dev/shm is full', 'make room there', {}),
    (r"MemoryError: |DefaultCPUAllocator: can't allocate memory|Cannot allocate memory",
     'the memory is full', 'give the job more',
     dict(resume='lower train_dataloader.batch_size or num_workers, or set model.backbone.with_cp=True',
          batch_size='lower --batch-size', tile='predict smaller tiles with --tile', workers='lower --workers')),
    (r"not implemented for 'BFloat16'|but found BFloat16|got BFloat16",
     'an operator of this model takes no bfloat16', 'compute in fp32',
     dict(resume='take --amp for float16 (--amp-dtype bfloat16 casts for RoIAlign, NMS and focal loss, and for no other)',
          dtype='take --dtype float16')),
    (r'^BrokenPipeError: ',
     'a pipe broke', 'see why what read this output, or a process of its own, has ended', {}),
    (r'Connection (?:closed|reset) by peer|gloo.*(?:[Tt]imed? ?out|closure)|ncclRemoteError|NCCL communicator was aborted|'
     r'Watchdog caught collective operation timeout|Broken pipe',
     'a connection to another process or machine was lost, or not answered in time', 'try again',
     dict(launcher='see what the other processes said last, or set env_cfg.dist_cfg.timeout to more seconds')),
)


def explain_failure(error: BaseException, options: Container[str] = ()) -> str | None:
    """A sentence for a failure of the machine; None for anything else, which is to be shown with its frames.

    Args:
        error: what was raised.
        options: the tool's, such as its parsed arguments; no other is advised.
    """
    if not isinstance(error, RuntimeError | OSError | MemoryError | EOFError):
        return None
    text = f'{"from a worker: " if _is_cut_off_worker(error) else ""}{type(error).__name__}: {error}'
    for pattern, what, in_any_tool, by_option in _FAILURES:
        if re.search(pattern, text, re.DOTALL):
            remedies = [remedy for option, remedy in by_option.items() if option in options]
            goes_on = '; --resume goes on from the newest checkpoint' if 'resume' in options else ''
            return f'{what}: {", or ".join([*remedies, in_any_tool])}{goes_on}'
    return None


def _is_cut_off_worker(error: BaseException) -> bool:
    """Whether a data loader was reading from a worker that ended in the midst of it, before PyTorch saw that it had."""
    return isinstance(error, ConnectionError | EOFError) and any(
        frame.f_code.co_name == '_try_get_data' for frame, _ in traceback.walk_tb(error.__traceback__))

"""What PyTorch raises when the machine fails rather than the program, in a sentence that says what to do."""

import re

_MEMORY = ('the memory is full: lower train_dataloader.batch_size or num_workers, or set model.backbone.with_cp=True; --resume '
           'goes on from the newest checkpoint')
# (what the error's text holds, what is told); the first that matches counts.
_KNOWN = (
    (r'DataLoader worker \(pid\S* [\d, ]+\).*(?:signal|exited unexpectedly)',
     'a data loader worker died, most often for want of memory: lower train_dataloader.num_workers, or give the job more memory '
     '(/dev/shm too); --resume goes on from the newest checkpoint'),
    (r'(?:CUDA|HIP) out of memory',
     'the GPU\'s memory is full: lower train_dataloader.batch_size (with --auto-scale-lr), or set model.backbone.with_cp=True or '
     '--amp; --resume goes on from the newest checkpoint'),
    (r'No space left on device|Disk quota exceeded',
     'the disk of the work directory, or of /tmp, is full: make room there; --resume goes on from the newest checkpoint'),
    (r'DefaultCPUAllocator: can\'t allocate memory|Cannot allocate memory', _MEMORY),
    (r'Connection (?:closed|reset) by peer|gloo.*(?:[Tt]imed? ?out|closure)|ncclRemoteError|NCCL communicator was aborted|'
     r'Watchdog caught collective operation timeout|Broken pipe',
     'another process of this training was lost, or did not answer in time (env_cfg.dist_cfg.timeout, in seconds); what it said '
     'last tells why, and --resume goes on from the newest checkpoint'),
)


def explain_failure(error: BaseException) -> str | None:
    """A sentence for a failure of the machine; None for anything else, which is to be shown with its frames."""
    if not isinstance(error, RuntimeError | OSError | MemoryError):
        return None
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, BrokenPipeError):
        return 'a pipe broke: what read this output, or a process of its own, has ended; --resume goes on'
    return next((sentence for pattern, sentence in _KNOWN if re.search(pattern, str(error), re.DOTALL)), None)

"""Data loader workers: that they outlive a signal to the whole job, and that /dev/shm holds what they hand over."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, distributed
from torch.utils.data import DataLoader, IterableDataset, Subset

from ralamala_mm.errors import UserError

_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}
SHARED_MEMORY = '/dev/shm'  # where PyTorch puts tensors that processes share, by either of its strategies
_SAMPLES = 3  # of which a batch's size is estimated
_LARGE_SAMPLE = 64 * 2**20  # bytes, as of 4600 × 4600 pixels; where such batches would fit, nothing is estimated
_PAGE = 4096  # bytes; each tensor is a file of its own
_MIB = 2**20
# Processes on this node, as torchrun, Slurm and Open MPI say it.
_LOCAL_SIZES = ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')


class Shielded:
    """A worker's start: SIGTERM and SIGUSR1 are left to the process that the worker works for.

    Schedulers signal every process of a job. A training whose workers died of it could not continue to its checkpoint.

    Args:
        start: what the worker does besides.
    """

    def __init__(self, start: Callable[[int], None] | None):
        self.start = start

    def __call__(self, worker: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._obey, args=[os.getppid()], daemon=True).start()
        if self.start:
            self.start(worker)

    @staticmethod
    def _obey(parent: int) -> None:
        """Ends on SIGTERM of the parent, which is how PyTorch ends a worker that does not come to its end."""
        while True:
            received = signal.sigwaitinfo(_SIGNALS)
            if received.si_signo == signal.SIGTERM and received.si_pid == parent:
                os._exit(0)


def shield_workers(loader: DataLoader) -> None:
    """Lets a loader's workers leave SIGTERM and SIGUSR1 to the process that they work for."""
    loader.worker_init_fn = Shielded(loader.worker_init_fn)


def check_shared_memory(loader: DataLoader, name: str, beside: DataLoader | None = None, folder: str = SHARED_MEMORY) -> None:
    """Raise if the batches that a loader's workers keep ready do not fit into the node's shared memory.

    Each worker keeps `prefetch_factor` batches ready, and one more is in use, in each of the node's processes. Where it may
    matter, the size of a batch is estimated from a few samples, which a worker loads: this process's RNG and files are not used.

    Args:
        loader: its workers have not been started. One of an iterable data set, or without workers, is left unchecked.
        name: of its settings in the config, such as train_dataloader.
        beside: a loader that keeps its batches meanwhile, as that of an iteration-based training does while it is validated.
        folder: where the shared memory is mounted.

    Raises:
        UserError: they do not fit.
    """
    if not _shares(loader) or not os.path.isdir(folder):
        return
    loaders = [each for each in (loader, beside) if _shares(each)]
    processes = _local_processes()
    system = os.statvfs(folder)
    free = system.f_bavail * system.f_frsize
    batches = [processes * (each.num_workers * each.prefetch_factor + 1) for each in loaders]
    if sum(count * _images(each) for count, each in zip(batches, loaders, strict=True)) * _LARGE_SAMPLE <= free:
        return
    sizes = [_batch_bytes(each) for each in loaders]
    needed, *others = [count * size for count, size in zip(batches, sizes, strict=True)]
    if needed + sum(others) <= free:
        return
    workers = max(((free - sum(others)) // max(processes * sizes[0], 1) - 1) // loader.prefetch_factor, 0)
    whose = f'{name} of {processes} processes' if processes > 1 else name
    kept = f', beside {sum(others) / _MIB:.0f} MiB of those of the training' if others else ''
    raise UserError(
        f'{folder} has {free / _MIB:.0f} MiB free, but the workers of {whose} keep some {needed / _MIB:.0f} MiB of batches '
        f'ready in it{kept}, and would die of a bus error: give the container more (docker run '
        f'--shm-size={_power_of_two(needed + sum(others))}, on Kubernetes an emptyDir with medium: Memory mounted there), or set '
        f'{name}.num_workers={workers}')


def _shares(loader: DataLoader | None) -> bool:
    """Whether a loader's batches are known to go through shared memory."""
    return isinstance(loader, DataLoader) and loader.num_workers > 0 and not isinstance(loader.dataset, IterableDataset)


def _power_of_two(needed: int) -> str:
    """A size for Docker with room for as much again, such as 8g."""
    gibibytes = 1
    while gibibytes * 2**30 < 2 * needed:
        gibibytes *= 2
    return f'{gibibytes}g'


def _batch_bytes(loader: DataLoader) -> int:
    """Bytes of shared memory that a batch takes, about."""
    total = len(loader.dataset)
    indices = sorted({i * (total - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)})
    # Its own generator: a loader draws its workers' seeds from PyTorch's otherwise, and the training would draw other numbers.
    sizes = list(DataLoader(
        Subset(loader.dataset, indices), batch_size=1, num_workers=1, prefetch_factor=1, worker_init_fn=loader.worker_init_fn,
        collate_fn=partial(_collated_bytes, loader.collate_fn), generator=torch.Generator(),
        multiprocessing_context=loader.multiprocessing_context))
    return _images(loader) * sum(sizes) // len(sizes)


def _images(loader: DataLoader) -> int:
    """Samples in a batch."""
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)


def _local_processes() -> int:
    """How many processes of the run share this node's memory."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    given = next((os.environ[name] for name in _LOCAL_SIZES if os.environ.get(name, '').isdecimal()), '1')
    return min(int(given), distributed.get_world_size())


def _collated_bytes(collate: Callable[[list], object], samples: list) -> int:
    """Bytes of the tensors in a collated batch, as files of a whole number of pages."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, _tensors(collate(samples)))}
    return sum(-(-size // _PAGE) * _PAGE for size in storages.values())


def _tensors(value: object) -> Iterable[Tensor]:
    """The tensors in what a pipeline makes: dicts, lists and data elements."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, BaseDataElement):
        for _, part in value.all_items():
            yield from _tensors(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(getattr(value, 'tensor', None), Tensor):  # MMDetection's boxes
        yield value.tensor

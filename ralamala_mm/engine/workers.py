"""Data loader workers that outlive a signal to the whole job, so that the training can still end in order."""

import os
import signal
import threading
from collections.abc import Callable

from torch.utils.data import DataLoader

_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}


class Shielded:
    """A worker's start: SIGTERM and SIGUSR1 are left to the process that the worker works for.

    Schedulers signal every process of a job. A training whose workers died of it could not go on to its checkpoint.

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

"""Data loader workers and the signals that schedulers send to all processes of a job."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from torch.utils.data import DataLoader

from ralamala_mm.engine.loaders import shield_workers


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize('name', ['TERM', 'USR1'])
def test_a_signal_to_the_whole_job(name: str):
    started = []
    loader = DataLoader(range(40), batch_size=1, num_workers=2, worker_init_fn=started.append, persistent_workers=True)
    shield_workers(loader)
    batches = iter(loader)
    seen = [int(next(batches)) for _ in range(2)]  # one of each worker: both have started
    workers = [worker.pid for worker in batches._workers]
    code = f'import os, signal; [os.kill(pid, signal.SIG{name}) for pid in {workers}]'
    subprocess.run([sys.executable, '-c', code], check=True)  # from another process than their parent
    time.sleep(0.5)
    seen += [int(batch) for batch in batches]
    assert seen == list(range(40))
    assert all(alive(pid) for pid in workers)
    for worker in batches._workers:
        worker.terminate()
        worker.join(timeout=10)
        assert worker.exitcode == 0

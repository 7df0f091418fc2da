"""torchrun's agent, made patient: a training that is told to stop gets the time to save, and is not restarted."""

import os
import signal
import sys
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.launcher.api import LaunchConfig

STOPPED = 128 + signal.SIGTERM  # 143: exit code of a training that saved and ended because it had to
RUN_AGAIN = 75  # EX_TEMPFAIL: it saved and wants to continue
_KILLED_TO_RUN_AGAIN = 128 + signal.SIGUSR1  # the signal came before train.py listened to it
_STOP_CODES = {signal.SIGTERM: STOPPED, signal.SIGHUP: STOPPED, signal.SIGUSR1: RUN_AGAIN}
_SAVING_TIME = 120  # seconds that the processes have for one iteration and a checkpoint
_OTHER_NODES_TIME = 20  # seconds that the other nodes have to end too


def run_elastic(config: LaunchConfig, command: list[str]) -> int:
    """Starts the processes of this node, restarts them as often as the config says, and waits for their end.

    SIGTERM, SIGUSR1 and SIGHUP reach the processes, which have `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` seconds (120) to save.

    Args:
        config: torchrun's settings: where the nodes meet, processes per node, restarts.
        command: what each process runs.

    Returns:
        Exit code of the processes: 0, that of the first which failed, or 75 if they want to be run again.
    """
    # The others are ours: torch would raise an exception in the middle of whatever this process does.
    os.environ['TORCHELASTIC_SIGNALS_TO_HANDLE'] = 'SIGINT,SIGQUIT'
    parameters = RendezvousParameters(
        backend=config.rdzv_backend, endpoint=config.rdzv_endpoint, run_id=config.run_id, min_nodes=config.min_nodes,
        max_nodes=config.max_nodes, local_addr=config.local_addr, **config.rdzv_configs)
    master_addr, master_port = None, None
    if config.rdzv_backend == 'static':
        master_addr, port = config.rdzv_endpoint.rsplit(':', 1)
        master_port = int(port)
    handler = get_rendezvous_handler(parameters)
    specification = WorkerSpec(
        role=config.role, local_world_size=config.nproc_per_node, entrypoint=command[0], args=tuple(command[1:]),
        rdzv_handler=handler, max_restarts=config.max_restarts, monitor_interval=config.monitor_interval,
        master_addr=master_addr, master_port=master_port, local_addr=config.local_addr)
    logs = dict(logs_specs=config.logs_specs) if hasattr(config, 'logs_specs') else {}  # from torch 2.3 on
    agent = PatientAgent(specification, **logs, start_method=config.start_method)
    try:
        result = agent.run()
    except (SystemExit, SignalException):
        raise  # without ending the rendezvous, which the other nodes continue with
    except Exception:
        handler.shutdown()
        raise
    handler.shutdown()
    if agent.gave_up_on:
        return _STOP_CODES[agent.gave_up_on]
    failures = sorted(result.failures.values(), key=lambda failure: failure.timestamp)
    return exit_code((failure.exitcode for failure in failures), agent.told)


def exit_code(codes: Iterable[int], told: signal.Signals | None = None) -> int:
    """The exit code of a node from those of its processes.

    Args:
        codes: those of the processes that failed, first failure first; minus the signal's number if one killed it.
        told: the signal that was handed on to them.

    Returns:
        0 without a failure; 75 if any wants to be run again; 143 if they were told to end and one did so in order, as others
        may have been waiting for it; else the first that is an error, as torchrun ends the other processes with SIGTERM.
    """
    given = list(codes)
    codes = [128 - code if code < 0 else code for code in given]
    if RUN_AGAIN in codes or _KILLED_TO_RUN_AGAIN in codes:
        return RUN_AGAIN
    if told and STOPPED in given:
        return STOPPED
    return next((code for code in codes if code != STOPPED), codes[0] if codes else 0)


class PatientAgent(LocalElasticAgent):
    """Hands signals on to the processes themselves, not to their data loader workers, and waits for the checkpoint."""

    gave_up_on: signal.Signals | None = None  # the signal after which the processes continued for too long
    told: signal.Signals | None = None
    _deadline = float('inf')

    def __init__(self, *args, **kwargs) -> None:
        self._signals = [signum for signum in _STOP_CODES if signal.getsignal(signum) != signal.SIG_IGN]  # as nohup sets SIGHUP
        super().__init__(*args, **kwargs)
        self._listen()

    def _listen(self) -> None:
        for signum in self._signals:
            signal.signal(signum, self._hand_on)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        workers = super()._start_workers(worker_group)
        self._listen()  # torch before 2.9 knows no TORCHELASTIC_SIGNALS_TO_HANDLE and takes them for itself
        return workers

    def _hand_on(self, signum: int, frame: FrameType | None) -> None:
        handlers = self._pcontext.subprocess_handlers.values() if self._pcontext else []
        running = [handler.proc for handler in handlers if handler.proc.poll() is None]
        if not running:  # while the nodes gather
            sys.exit(_STOP_CODES[signum])
        self.told = signal.Signals(signum)
        self._remaining_restarts = 0
        self._deadline = time.monotonic() + int(os.environ.get('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', _SAVING_TIME))
        for process in running:
            process.send_signal(signal.SIGTERM if signum == signal.SIGHUP else signum)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if time.monotonic() > self._deadline:
            self.gave_up_on = self.told
            print(f'WARNING: the processes did not stop in time after {self.told.name} and are killed; the training can '
                  'be resumed from the last checkpoint.', file=sys.stderr, flush=True)
            self._pcontext.close(signal.SIGKILL)
        result = super()._monitor_workers(worker_group)
        codes = [failure.exitcode for failure in result.failures.values()]
        if result.is_failed() and exit_code(codes, self.told) in (STOPPED, RUN_AGAIN):
            # Whoever was told, all nodes end: none is to wait for others that do not come back, nor to miss node 0's store.
            self._remaining_restarts = 0
            self._exit_barrier_timeout = _OTHER_NODES_TIME
            self._exit_barrier()
        return result

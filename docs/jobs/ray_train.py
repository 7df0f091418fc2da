"""Trains on a Ray cluster, one process per GPU: python docs/jobs/ray_train.py CONFIG --workers 16 [options of tools/train.py]

Needs `pip install 'ray[train]'`. This repository, its environment, the data and the work directory must be there under the
same paths on all nodes.
"""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import distributed

TRAIN = Path(__file__).resolve().parents[2] / 'tools' / 'train.py'


def free_port() -> int:
    """A port that is free on this node at the moment."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def train(settings: dict) -> None:
    """What each worker runs: tools/train.py in a process of its own, which signals, exit codes and memory are for.

    Ray has set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and MASTER_ADDR, and keeps MASTER_PORT for its own group. By that
    the workers agree on a port for the training's.

    Raises:
        RuntimeError: the process failed, upon which Ray starts all workers again, as often as it may.
    """
    port = [free_port() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(port)
    command = [sys.executable, str(TRAIN), *settings['arguments'], '--resume', '--launcher', 'pytorch']
    code = subprocess.run(command, env=dict(os.environ, MASTER_PORT=str(port[0])), cwd=settings['folder'], check=False).returncode
    if code:
        raise RuntimeError(f'rank {distributed.get_rank()} ended with exit code {code}: see its output above')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, required=True, help='processes in all, one per GPU')
    parser.add_argument('--cpu', action='store_true', help='processes without GPUs')
    parser.add_argument('--restarts', type=int, default=3, help='how often all workers are started again')
    args, arguments = parser.parse_known_args()
    TorchTrainer(
        train,
        train_loop_config=dict(arguments=arguments, folder=os.getcwd()),
        # The group of Ray's own, which carries one number; the training's is NCCL's where there are GPUs.
        torch_config=TorchConfig(backend='gloo'),
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=not args.cpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=args.restarts)),
    ).fit()


if __name__ == '__main__':
    main()

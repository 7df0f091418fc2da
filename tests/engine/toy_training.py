"""A training of milliseconds in this process, with what can go astray: dropout, augmentation, averaged weights, batch norm."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset

from ralamala_mm.engine import DependableRunner, use_resume
from ralamala_mm.errors import UserError

_NUMBERS = itertools.count()  # MMEngine keeps what runners of one name share


@DATASETS.register_module(force=True)
class ToyDataset(Dataset):
    """Numbered samples with noise from NumPy's and PyTorch's generators."""

    def __init__(self, length: int):
        self.length = length
        self.metainfo = dict(classes=('a',))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        noise = torch.rand(4) + torch.from_numpy(np.random.rand(4)).float()
        return dict(inputs=noise + index, number=torch.tensor(index))


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """A regression; the loss of the sample `poisoned` is not finite, from iteration `poisoned_from` on."""

    def __init__(self, poisoned: int = -1, poisoned_from: int = 0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.poisoned, self.poisoned_from, self.calls = poisoned, poisoned_from, 0
        self.numbers: list[list[int]] = []

    def forward(self, inputs: list[Tensor], number: list[Tensor], mode: str = 'loss'):
        output = self.layers(torch.stack(inputs))
        if mode != 'loss':
            return list(output)
        self.numbers.append([int(n) for n in number])
        self.calls += 1
        bad = self.poisoned in self.numbers[-1] and self.calls > self.poisoned_from
        target = torch.stack(number)[:, None].float() / 10 * (float('nan') if bad else 1)
        return dict(loss_fit=(output - target).square().mean(), loss_size=output.square().mean() * 1e-3)


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [float(value) for value in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(mean_acc=sum(results) / len(results))


def toy_config(work_dir: Path, by_epoch: bool = True, length: int = 4, **settings) -> Config:
    """A config of `length` epochs of 5 batches, or of 5 × `length` iterations.

    Args:
        work_dir: where checkpoints go.
        by_epoch: which of the loops.
        length: see above.
        settings: laid over the config, nested by dots.
    """
    loop = dict(type='EpochBasedTrainLoop', max_epochs=length, val_interval=2) if by_epoch else dict(
        type='IterBasedTrainLoop', max_iters=5 * length, val_interval=10)
    config = Config(dict(
        default_scope='mmengine', work_dir=str(work_dir), launcher='none', experiment_name=f'toy_{next(_NUMBERS)}',
        model=dict(type='ToyModel'), randomness=dict(seed=3), log_level='ERROR', resume=False, load_from=None,
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name=f'toy_{next(_NUMBERS)}'),
        train_dataloader=dict(batch_size=4, num_workers=0, dataset=dict(type='ToyDataset', length=18),
                              sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)),
        train_cfg=loop, optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=30, by_epoch=by_epoch),
        val_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='ToyDataset', length=6),
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(), val_evaluator=dict(type='ToyMetric'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1 if by_epoch else 5, by_epoch=by_epoch)),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)]))
    config.merge_from_dict(settings)
    return config


def run_toy(config: Config, resume: str | None = None, hooks: list = ()) -> DependableRunner:
    """Trains, as train.py does; the runner afterwards.

    Args:
        config: from `toy_config`.
        resume: as train.py's option: 'auto' or a path.
        hooks: objects added to the runner's.
    """
    use_resume(config, resume)
    runner = DependableRunner.from_cfg(config)
    for hook in hooks:
        runner.register_hook(hook)
    try:
        runner.train()
    except UserError as error:
        raise error.with_traceback(None) from None  # which would keep the data loader's workers waiting
    return runner


def run_two(code: str, *arguments: object) -> list[tuple[int, str]]:
    """Exit codes and outputs of two processes that run the code as a launcher's processes would, on one machine.

    Args:
        code: Python; `config` makes a `toy_config` whose processes have joined.
        arguments: `sys.argv[1:]` of it.
    """
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    begin = """
import os, signal, sys, time
from pathlib import Path
from ralamala_mm.engine import start_processes
from toy_training import *

rank = int(os.environ['RANK'])

def config(*arguments, **settings):
    made = toy_config(*arguments, launcher='pytorch', **{'train_dataloader.dataset.length': 40}, **settings)  # 5 batches
    start_processes(made)
    return made
"""
    processes = []
    for rank in range(2):
        environment = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2',
                           MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1',
                           PYTHONPATH=os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get('PYTHONPATH')])))
        processes.append(subprocess.Popen([sys.executable, '-W', 'ignore', '-c', begin + code, *map(str, arguments)],
                                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        told = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def states(runner: DependableRunner) -> dict:
    """All that has to come out the same: weights, averaged weights, the optimizer, the schedule."""
    averaged = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    return dict(weights=runner.model.state_dict(), averaged=averaged.state_dict(), optimizer=runner.optim_wrapper.state_dict(),
                schedule=[scheduler.state_dict() for scheduler in runner.param_schedulers], iter=runner.iter)

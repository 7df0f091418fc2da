"""Which process this is, and whether the node can run so many."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ralamala_mm.engine import build_runner, check_process_count, start_processes
from ralamala_mm.engine.distributed import interface_of, launched_rank, local_address
from ralamala_mm.errors import UserError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch):
    for name in list(os.environ):
        if name.startswith(('SLURM_', 'OMPI_', 'PMIX_')):
            monkeypatch.delenv(name)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'GLOO_SOCKET_IFNAME'):
        monkeypatch.setenv(name, '')  # so that what the code sets is undone
        monkeypatch.delenv(name)


@pytest.mark.parametrize(('launcher', 'name'), [
    ('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')])
def test_the_rank_of_each_launcher(launcher: str, name: str, monkeypatch: pytest.MonkeyPatch):
    assert launched_rank(launcher) == 0
    monkeypatch.setenv(name, '3')
    assert launched_rank(launcher) == 3
    others = {'none', 'pytorch', 'slurm', 'mpi'} - {launcher}
    assert {launched_rank(other) for other in others} == {0}  # as of mpirun or single runs within a Slurm job


@pytest.mark.parametrize(('launcher', 'sentence'), [
    ('pytorch', 'RANK is not set: start it through tools/dist_train.sh or torchrun'),
    ('slurm', 'SLURM_PROCID is not set: start it through tools/slurm_train.sh or srun'),
    ('mpi', 'OMPI_COMM_WORLD_RANK is not set: start it through mpirun'),
])
def test_a_launcher_that_did_not_launch(launcher: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        start_processes(Config(dict(launcher=launcher)))


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    check_process_count(4)
    with pytest.raises(UserError, match='8 GPUs were asked for, but this node has 4: ask for 4'):
        check_process_count(8)
    with pytest.raises(UserError, match='must be 1 or more, not 0'):
        check_process_count(0)


def joined(monkeypatch: pytest.MonkeyPatch, config: dict, **environment: str) -> dict:
    """What the process group is made with by a process of such an environment."""
    seen = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend, **given: seen.update(given, backend=backend))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start_processes(Config(config))
    return seen


SLURM = dict(SLURM_PROCID='5', SLURM_NTASKS='8', SLURM_LOCALID='0', SLURM_JOB_ID='17', SLURM_STEP_ID='0')


def test_processes_of_slurm(monkeypatch: pytest.MonkeyPatch):
    config = dict(launcher='slurm', env_cfg=dict(dist_cfg=dict(timeout=300)))
    seen = joined(monkeypatch, config, SLURM_NODELIST='localhost', **SLURM)
    assert seen == dict(backend='gloo', rank=5, world_size=8, timeout=timedelta(seconds=300))
    assert os.environ['MASTER_ADDR'] == 'localhost'
    assert 'GLOO_SOCKET_IFNAME' not in os.environ  # not the loopback interface, for 8 processes on several nodes
    first = int(os.environ.pop('MASTER_PORT'))
    joined(monkeypatch, dict(launcher='slurm'), **dict(SLURM, SLURM_JOB_ID='18'))
    second = int(os.environ['MASTER_PORT'])
    assert first != second
    assert {first, second} <= set(range(10000, 30000))


def test_lists_of_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match=r'node\[1-4\] cannot be read without scontrol.*set MASTER_ADDR'):
        joined(monkeypatch, dict(launcher='slurm'), SLURM_NODELIST='node[1-4]', **SLURM)
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames local[1-4]" ] && echo localhost && echo local2\n')
    scontrol.chmod(0o755)
    joined(monkeypatch, dict(launcher='slurm'), SLURM_NODELIST='local[1-4]', **SLURM)
    assert os.environ['MASTER_ADDR'] == 'localhost'


def test_processes_of_mpi(monkeypatch: pytest.MonkeyPatch):
    mpi = dict(OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='0')
    with pytest.raises(UserError, match='over several nodes needs MASTER_ADDR'):
        joined(monkeypatch, dict(launcher='mpi'), OMPI_COMM_WORLD_LOCAL_SIZE='1', **mpi)
    seen = joined(monkeypatch, dict(launcher='mpi'), OMPI_COMM_WORLD_LOCAL_SIZE='2', **mpi)
    assert (seen['rank'], seen['world_size'], seen['timeout']) == (1, 2, None)
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('127.0.0.1', '29500')


def test_processes_with_gpus_join_as_mmengine_has_it(monkeypatch: pytest.MonkeyPatch):
    """Before the checkpoint to continue from is agreed on."""
    seen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr('ralamala_mm.engine.distributed.init_dist', lambda launcher, **given: seen.append((launcher, given)))
    for name, value in dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1').items():
        monkeypatch.setenv(name, value)
    config = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=300))))
    start_processes(config)
    assert seen == [('pytorch', dict(backend='nccl', timeout=300))]
    config.strategy = dict(type='DeepSpeedStrategy')
    start_processes(config)
    assert len(seen) == 1


def test_the_way_to_another_node():
    assert local_address('127.0.0.1') == '127.0.0.1'
    assert interface_of('127.0.0.1') == 'lo'
    assert interface_of('127.0.1.1') == 'lo'
    assert interface_of('192.0.2.1') is None  # of a range for documentation
    with pytest.raises(UserError, match='is not known on this node'):
        local_address('no-such-node.invalid')


def test_a_strategy_without_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='strategy FSDPStrategy shards a model over GPUs, and torch sees none here'):
        build_runner(Config(dict(strategy=dict(type='FSDPStrategy'))))


def test_no_thread_of_gloo_outlives_python():
    """One that frees a tensor while Python ends aborts the process, whose training is done; here a hook keeps the group."""
    code = """
import gc
from pathlib import Path
from mmengine.config import Config
from torch import distributed
from ralamala_mm.engine import start_processes
from ralamala_mm.engine.distributed import _leave_processes

class Hook:
    def __init__(self):
        self.group = distributed.new_group(backend='gloo')
        self.runner = self

def threads():
    return len(list(Path('/proc/self/task').iterdir()))

gc.disable()
before = threads()
start_processes(Config(dict(launcher='pytorch')))
Hook()
during = threads()
_leave_processes()
print(before, during, threads())
"""
    environment = dict(os.environ, RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0',
                       CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    before, during, after = map(int, result.stdout.split()[-3:])
    assert during > before
    assert after == before

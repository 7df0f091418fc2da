"""Which process this is, and whether the node can run so many."""

import pytest
import torch
from mmengine.config import Config

from ralamala_mm.engine import check_process_count, start_processes
from ralamala_mm.engine.launch import launched_rank
from ralamala_mm.errors import UserError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('name', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_the_rank_of_each_launcher(name: str, monkeypatch: pytest.MonkeyPatch):
    assert launched_rank() == 0
    monkeypatch.setenv(name, '3')
    assert launched_rank() == 3


@pytest.mark.parametrize(('launcher', 'sentence'), [
    ('pytorch', 'RANK is not set: start it through tools/dist_train.sh or torchrun'),
    ('slurm', 'SLURM_PROCID is not set: start it through slurm'),
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

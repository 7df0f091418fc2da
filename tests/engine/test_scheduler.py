"""What a job's PET_* variables come to, and what wins over them."""

import os
import socket
import time

import pytest
import torch

from ralamala_mm.engine.distributed import await_name, count_processes, take_scheduler_variables
from ralamala_mm.errors import UserError

# As Kubeflow's TrainJob sets them.
TRAIN_JOB = dict(PET_NNODES='2', PET_NPROC_PER_NODE='8', PET_NODE_RANK='1', PET_MASTER_ADDR='ravlt-node-0-0.ravlt',
                 PET_MASTER_PORT='29500')


def test_they_describe_the_run():
    environment = dict(TRAIN_JOB, HOME='/home')
    given, notes = take_scheduler_variables(environment)
    assert environment == dict(HOME='/home', NNODES='2', NODE_RANK='1', MASTER_ADDR='ravlt-node-0-0.ravlt', PORT='29500')
    assert given == TRAIN_JOB
    assert notes == []


def test_torchrun_reads_no_other_nodes_behind_the_launcher():
    """Each option of torchrun has a PET_* default; none that says who meets where is left, those of logging and the like are."""
    from torch.distributed.run import get_args_parser

    names = {f'PET_{action.dest.upper()}' for action in get_args_parser()._actions}
    places = {name for name in names if any(word in name for word in (
        'NNODES', 'NPROC', 'NODE_RANK', 'MASTER', 'RDZV', 'STANDALONE', 'RESTARTS', 'LOCAL_ADDR'))}
    assert len(places) >= 11
    environment = dict.fromkeys(places, '1') | dict(PET_RDZV_BACKEND='static', PET_LOG_DIR='logs')
    take_scheduler_variables(environment)
    assert set(environment) == {'PET_LOG_DIR', 'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT'}


def test_what_the_launcher_was_given_wins():
    environment = dict(TRAIN_JOB, NNODES='1', PORT='29500')
    _, notes = take_scheduler_variables(environment)
    assert environment['NNODES'] == '1'
    assert notes == ['NNODES=1 is used, not 2 of PET_NNODES']  # the port is the same


def test_an_elastic_policy():
    """PyTorchJob's elasticPolicy: the nodes have no numbers, and node 0 is the one that the endpoint names."""
    environment = dict(PET_NNODES='2:2', PET_RDZV_BACKEND='c10d', PET_RDZV_ENDPOINT='ravlt-worker-0:23456', PET_RDZV_ID='a',
                       PET_MAX_RESTARTS='3', PET_NPROC_PER_NODE='8', PET_RDZV_CONF='timeout=900', PET_STANDALONE='')
    take_scheduler_variables(environment)
    assert environment == dict(NNODES='2', MASTER_ADDR='ravlt-worker-0', PORT='23456')
    environment = dict(PET_RDZV_ENDPOINT='ravlt-worker-0')
    take_scheduler_variables(environment)
    assert environment == dict(MASTER_ADDR='ravlt-worker-0')
    environment = dict(PET_RDZV_ENDPOINT='[fd00::1]:23456', MASTER_ADDR='node0')
    _, notes = take_scheduler_variables(environment)
    assert environment == dict(MASTER_ADDR='node0', PORT='23456')
    assert notes == ['MASTER_ADDR=node0 is used, not fd00::1 of PET_RDZV_ENDPOINT']


@pytest.mark.parametrize(('name', 'value', 'sentence'), [
    ('PET_NNODES', '1:4', 'PET_NNODES=1:4: another number of nodes would change the batch'),
    ('PET_RDZV_ENDPOINT', 'node0:port', 'PET_RDZV_ENDPOINT=node0:port: '),
    ('PET_RDZV_BACKEND', 'etcd-v2', 'PET_RDZV_BACKEND=etcd-v2: the launchers know c10d'),
])
def test_what_is_refused(name: str, value: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        take_scheduler_variables({name: value})


def test_processes_of_a_node(monkeypatch: pytest.MonkeyPatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert [count_processes(asked) for asked in ('3', 'auto', 'cpu')] == [3, cores, cores]
    with pytest.raises(UserError, match='one process per GPU was asked for'):
        count_processes('gpu')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert [count_processes(asked) for asked in ('3', 'auto', 'gpu', 'cpu')] == [3, 4, 4, cores]
    with pytest.raises(UserError, match='must be an integer or auto, got many'):
        count_processes('many')


def test_a_name_that_becomes_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    asked = []

    def look_up(host: str, port: None) -> list:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')
        return []

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    await_name('ravlt-node-0-0.ravlt')
    assert asked == ['ravlt-node-0-0.ravlt'] * 3
    assert capsys.readouterr().err == 'waiting up to 300 s for the name ravlt-node-0-0.ravlt of node 0\n'


def test_a_name_that_does_not(monkeypatch: pytest.MonkeyPatch):
    """It is left to whoever connects to it to say so."""
    def unknown(host: str, port: None) -> list:
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    await_name('nowhere', seconds=0.05)

"""The job files of docs/jobs: each is started as its scheduler does it, with the same variables, as two nodes on this machine.

What a machine without GPUs lacks is left out of their commands, and a small model stands for the one they name.
"""

import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / 'docs' / 'jobs'
CONFIG = 'configs/maskrcnn_ravlt_s.py'
ITERATIONS = 4
TRAINING = f"""
_base_ = '{ROOT}/tests/faults/configs/tiny_segmentor.py'
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='data/shapes'))
val_dataloader = dict(dataset=dict(data_root='data/shapes'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters={ITERATIONS}, val_interval=1000)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
env_cfg = dict(dist_cfg=dict(timeout=60))
"""
# In the place of tools/train.py's process, what TorchTrainer does around the training function of ray_train.py.
RAY_WORKER = """
import importlib.util, os, sys, types
import torch
for name in ('ray', 'ray.train', 'ray.train.torch'):
    sys.modules[name] = types.ModuleType(name)
for name in ('FailureConfig', 'RunConfig', 'ScalingConfig'):
    setattr(sys.modules['ray.train'], name, None)
for name in ('TorchConfig', 'TorchTrainer'):
    setattr(sys.modules['ray.train.torch'], name, None)
specification = importlib.util.spec_from_file_location('ray_train', sys.argv[1])
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
torch.distributed.init_process_group('gloo', init_method='env://')
module.train(dict(arguments=sys.argv[2:], folder=os.getcwd()))
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder that stands for the root of the repository: its tools, small data, and a small model under the config's name."""
    from ralamala_mm.datasets.shapes import make_shapes

    for name in ('tools', 'ralamala_mm', 'docs'):
        (tmp_path / name).symlink_to(ROOT / name)
    make_shapes(tmp_path / 'data' / 'shapes', train=8, val=2, size=64)
    (tmp_path / CONFIG).parent.mkdir()
    (tmp_path / CONFIG).write_text(TRAINING)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """Of a container: no variable of another scheduler."""
    others = ('PET_', 'SKYPILOT_', 'SLURM_', 'OMPI_', 'RAY_')
    names = {'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'NNODES', 'NODE_RANK', 'PORT'}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others) and name not in names}
    return kept | dict(PYTHON=sys.executable, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), JOIN_TIMEOUT='60')


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((JOBS / name).read_text()))


def without_gpus(words: list[str]) -> list[str]:
    assert '--amp' in words
    return [word for word in words if word != '--amp']


def pytorch_job(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a replica, as the Training Operator sets them (pkg/controller.v1/pytorch/envvar.go, master.go)."""
    (job,) = documents('pytorchjob.yaml')
    replicas = job['spec']['pytorchReplicaSpecs']
    (container,) = replicas['Worker' if node else 'Master']['template']['spec']['containers']
    assert container['name'] == 'pytorch'  # by which the operator finds the port
    nodes = sum(replica['replicas'] for replica in replicas.values())
    assert job['spec']['nprocPerNode'] == str(container['resources']['limits']['nvidia.com/gpu'])
    variables = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, PET_MASTER_ADDR='127.0.0.1', PET_MASTER_PORT=port,
                     WORLD_SIZE=str(nodes), RANK=str(node), PET_NNODES=str(nodes), PET_NPROC_PER_NODE='1',
                     PET_NODE_RANK=str(node))
    return without_gpus([*container['command'], *container['args']]), variables


def train_job(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a pod, as Trainer's torch plugin sets them (pkg/runtime/framework/plugins/torch)."""
    runtime, job = documents('trainjob.yaml')
    assert job['spec']['runtimeRef']['name'] == runtime['metadata']['name']
    trainer = job['spec']['trainer']
    variables = dict(PET_NNODES=str(trainer['numNodes']), PET_NPROC_PER_NODE='1', PET_NODE_RANK=str(node),
                     PET_MASTER_ADDR='127.0.0.1', PET_MASTER_PORT=port)
    return without_gpus([*trainer['command'], *trainer['args']]), variables


def sky_pilot(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """The run commands of a node and their variables; SkyPilot gives no port."""
    (task,) = documents('skypilot.yaml')
    script = task['run'].replace('--amp ', '').replace('--data ~/coco ', '').replace('~/work_dirs', 'work_dirs')
    script = script.replace('export PYTHON=.venv/bin/python\n', f'export PORT={port}\n')  # the tests' own
    assert '~' not in script
    assert '--amp' not in script
    variables = dict(SKYPILOT_NUM_NODES=str(task['num_nodes']), SKYPILOT_NODE_RANK=str(node),
                     SKYPILOT_NODE_IPS='127.0.0.1\n127.0.0.1', SKYPILOT_NUM_GPUS_PER_NODE='1')
    return ['bash', '-c', script], variables


def torch_trainer(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """A worker of Ray Train and its variables (ray/train/torch/config.py), here without Ray."""
    arguments = [CONFIG, '--work-dir', 'work_dirs/maskrcnn_ravlt_s']
    variables = dict(RANK=str(node), WORLD_SIZE='2', LOCAL_RANK=str(node), LOCAL_WORLD_SIZE='2', NODE_RANK='0',
                     MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    return [sys.executable, '-c', RAY_WORKER, str(JOBS / 'ray_train.py'), *arguments], variables


SCHEDULERS = [pytorch_job, train_job, sky_pilot, torch_trainer]


def start(scheduler: object, workplace: Path, environment: dict[str, str]) -> list[subprocess.Popen]:
    """Both nodes, the second one first."""
    port = free_port()
    processes = []
    for node in (1, 0):
        command, variables = scheduler(node, port)
        with (workplace / f'node{node}.log').open('a') as log:
            processes.append(subprocess.Popen(command, cwd=workplace, env=environment | variables, stdout=log,
                                              stderr=subprocess.STDOUT))
    return processes


def output(workplace: Path) -> str:
    return ''.join((workplace / f'node{node}.log').read_text() for node in (0, 1))


def trained(shown: str) -> list[str]:
    """The iterations that were logged; of one process each."""
    return re.findall(r'Iter\(train\) \[ *(\d+)/', shown)


@pytest.mark.slow
@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=lambda scheduler: scheduler.__name__)
def test_two_nodes(scheduler: object, workplace: Path, environment: dict[str, str]):
    processes = start(scheduler, workplace, environment)
    codes = [process.wait(timeout=300) for process in processes]
    shown = output(workplace)
    assert codes == [0, 0], shown[-5000:]
    assert '2 processes train on the CPU over gloo' in shown
    assert trained(shown) == [str(i + 1) for i in range(ITERATIONS)]
    assert (workplace / 'work_dirs' / 'maskrcnn_ravlt_s' / f'iter_{ITERATIONS}.pth').exists()


@pytest.mark.slow
def test_an_evicted_pod(workplace: Path, environment: dict[str, str]):
    """Kubernetes tells one pod to end; both save together, and continue when they are started again."""
    more = 200
    (workplace / CONFIG).write_text(TRAINING.replace(f'max_iters={ITERATIONS}', f'max_iters={more}'))
    processes = start(train_job, workplace, environment)
    work_dir = workplace / 'work_dirs' / 'maskrcnn_ravlt_s'
    deadline = time.monotonic() + 200
    while not list(work_dir.glob('iter_*.pth')):
        assert time.monotonic() < deadline, output(workplace)[-5000:]
        assert [process.poll() for process in processes] == [None, None], output(workplace)[-5000:]
        time.sleep(0.1)
    processes[0].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=100) for process in processes] == [143, 143], output(workplace)[-5000:]
    saved = int(Path((work_dir / 'last_checkpoint').read_text()).stem.split('_')[1])
    (workplace / CONFIG).write_text(TRAINING.replace(f'max_iters={ITERATIONS}', f'max_iters={saved + 2}'))
    processes = start(train_job, workplace, environment)
    assert [process.wait(timeout=300) for process in processes] == [0, 0], output(workplace)[-5000:]
    assert trained(output(workplace))[-2:] == [str(saved + 1), str(saved + 2)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason="Ray is not installed: pip install 'ray[train]'")
def test_ray_itself(workplace: Path, environment: dict[str, str]):
    command = [sys.executable, 'docs/jobs/ray_train.py', CONFIG, '--workers', '2', '--cpu', '--restarts', '0', '--work-dir',
               str(workplace / 'work_dirs' / 'maskrcnn_ravlt_s')]
    result = subprocess.run(command, cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=400, check=False)
    assert result.returncode == 0, result.stdout[-5000:]
    assert '2 processes train on the CPU over gloo' in result.stdout
    assert trained(result.stdout) == [str(i + 1) for i in range(ITERATIONS)]


def pod_specs() -> dict[str, dict]:
    """The pods of both Kubernetes jobs."""
    (pytorch,) = documents('pytorchjob.yaml')
    runtime, _ = documents('trainjob.yaml')
    (node,) = runtime['spec']['template']['spec']['replicatedJobs']
    assert node['name'] == 'node'  # these names Trainer looks for
    assert node['template']['metadata']['labels'] == {'trainer.kubeflow.org/trainjob-ancestor-step': 'trainer'}
    pods = {f'PyTorchJob {kind}': replica['template']['spec'] for kind, replica in pytorch['spec']['pytorchReplicaSpecs'].items()}
    return pods | {'TrainJob': node['template']['spec']['template']['spec']}


@pytest.mark.parametrize(('name', 'pod'), pod_specs().items(), ids=pod_specs())
def test_pods(name: str, pod: dict):
    """Time to save, memory for the loaders, and volumes where the image has their folders."""
    from ralamala_mm.engine.elastic import _SAVING_TIME

    assert pod['terminationGracePeriodSeconds'] > _SAVING_TIME
    (container,) = pod['containers']
    mounts = {mount['mountPath']: mount['name'] for mount in container['volumeMounts']}
    volumes = {volume['name']: volume for volume in pod['volumes']}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts['/dev/shm']]['emptyDir']['medium'] == 'Memory'
    folder = [line.split()[1] for line in (ROOT / 'Dockerfile').read_text().splitlines() if line.startswith('WORKDIR')][-1]
    assert set(mounts) == {'/dev/shm', f'{folder}/data', f'{folder}/work_dirs'}


def test_what_jobs_name_exists():
    files = sorted(file for file in JOBS.iterdir() if file.is_file())
    assert [file.name for file in files] == ['pytorchjob.yaml', 'ray_train.py', 'skypilot.yaml', 'trainjob.yaml']
    page = (ROOT / 'docs' / 'clusters.md').read_text()
    named = []
    for file in files:
        assert f'(jobs/{file.name})' in page
        for word in shlex.split(file.read_text().replace("'", ' ').replace('[', ' ').replace(',', ' '), comments=True):
            if word.startswith(('tools/', 'configs/')):
                named.append(word)
                assert (ROOT / word.strip(']')).exists(), f'{file.name}: {word}'
    assert len(named) >= 4

"""Processes and devices: one process, several GPUs, or several CPU processes over gloo."""

import atexit
import gc
import os
import shutil
import subprocess
import zlib
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed

from ralamala_mm.errors import UserError

from .network import interface_of, local_address

# Where each launcher says which process this is: rank, number of processes, rank on this node.
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
_STARTERS = {'pytorch': 'tools/dist_train.sh or torchrun', 'slurm': 'tools/slurm_train.sh or srun', 'mpi': 'mpirun'}


def check_process_count(processes: int) -> None:
    """Whether this node can run so many training processes: one per GPU, or without any GPU one per core.

    Raises:
        UserError: there are fewer.
    """
    if processes < 1:
        raise UserError(f'the number of GPUs must be 1 or more, not {processes}')
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise UserError(f'{processes} GPUs were asked for, but this node has {gpus}: ask for {gpus}')
    cores = len(os.sched_getaffinity(0))
    if not gpus and processes > cores:
        raise UserError(f'{processes} GPUs were asked for, but torch sees none here, and the {cores} CPU cores allow '
                        f'{cores} processes: check nvidia-smi and that torch was built for CUDA')


def start_processes(config: Config) -> None:
    """Joins the process group: MMEngine's own way where there are GPUs, which it needs, ours over gloo where there are none.

    `env_cfg.dist_cfg.timeout` in the config, in seconds, limits how long a process waits for one that has vanished.

    Raises:
        UserError: the launcher's environment is missing, or there are more processes than the node can run.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'none':
        return
    names = _RANK_VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(f'--launcher {launcher} was given, but {missing[0]} is not set: start it through '
                        f'{_STARTERS[launcher]}')
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    check_process_count(local_rank + 1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_node(launcher, world_size)
    os.environ.setdefault('MASTER_PORT', str(_job_port()))
    _choose_interface(os.environ['MASTER_ADDR'])
    if torch.cuda.is_available():
        if not config.get('strategy'):  # which may have a way of its own
            environment = config.get('env_cfg', {})
            set_multi_processing(**environment.get('mp_cfg', {}), distributed=True)
            init_dist(launcher, **environment.get('dist_cfg', {}))
        return
    seconds = config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    distributed.init_process_group('gloo', rank=rank, world_size=world_size,
                                   timeout=None if seconds is None else timedelta(seconds=seconds))
    # gloo's threads, when they outlive Python, can end in an abort of a process that has done its work.
    atexit.register(_leave_processes)
    # MMEngine would hand DDP a GPU index.
    config.setdefault('model_wrapper_cfg',
                      dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
                           find_unused_parameters=config.get('find_unused_parameters', False)))
    if rank == 0:
        print_log(f'WARNING: no GPU is visible; {world_size} processes train on the CPU over gloo.')


def _first_node(launcher: str, world_size: int) -> str:
    """The node of rank 0, where the processes meet.

    Raises:
        UserError: nothing tells it.
    """
    if launcher == 'pytorch':
        return '127.0.0.1'
    if launcher == 'mpi':
        if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == str(world_size):
            return '127.0.0.1'
        raise UserError('--launcher mpi over several nodes needs MASTER_ADDR, the name of the first one: '
                        'mpirun -x MASTER_ADDR=…')
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST', '')
    if not nodes:
        raise UserError('--launcher slurm was given, but SLURM_NODELIST is not set: start it through '
                        f'{_STARTERS["slurm"]}, or set MASTER_ADDR to the name of the first node')
    if '[' not in nodes:
        return nodes.split(',')[0]
    if not shutil.which('scontrol'):
        raise UserError(f'SLURM_NODELIST={nodes} cannot be read without scontrol, which is not on this node: set '
                        'MASTER_ADDR to the name of the first node')
    result = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=False)
    if result.returncode or not result.stdout.strip():
        raise UserError(f'scontrol cannot read SLURM_NODELIST={nodes} ({result.stderr.strip()}): set MASTER_ADDR to the '
                        'name of the first node')
    return result.stdout.split()[0]


def _job_port() -> int:
    """A port that all processes of a job derive alike, and that differs between the jobs that may share a node."""
    names = ('SLURM_JOB_ID', 'SLURM_STEP_ID', 'PMIX_NAMESPACE')
    job = '.'.join(os.environ[name] for name in names if name in os.environ)
    return 10000 + zlib.crc32(job.encode()) % 20000 if job else 29500  # below the ports that Linux hands out by itself


def _choose_interface(master: str) -> None:
    """Makes gloo use the network that leads to the first node; it would take whatever this node's own name stands for."""
    interface = interface_of(local_address(master))
    # A first node that knows its own name as a loopback address cannot be reached there by the others.
    alone = os.environ.get('LOCAL_WORLD_SIZE') == os.environ['WORLD_SIZE']
    if interface and (alone or interface != 'lo'):
        os.environ.setdefault('GLOO_SOCKET_IFNAME', interface)


def _leave_processes() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
    # Model and hooks, which refer to each other, keep groups alive, and with them the threads, which end with their group.
    gc.collect()


def launched_rank(launcher: str) -> int:
    """Which of the launched processes this is; 0 without a launcher, whatever job the process is a part of."""
    return int(os.environ.get(_RANK_VARIABLES[launcher][0], 0)) if launcher != 'none' else 0

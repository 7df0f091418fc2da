"""Processes and devices: one process, several GPUs, or several CPU processes over gloo."""

import os
import subprocess

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import distributed

from ralamala_mm.errors import UserError

# Where each launcher says which process this is: rank, number of processes, rank on this node.
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


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
    """Joins the process group when there is no GPU, which MMEngine's own way needs; leaves the rest to MMEngine.

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
                        f'{"tools/dist_train.sh or torchrun" if launcher == "pytorch" else launcher}')
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    check_process_count(local_rank + 1)
    if torch.cuda.is_available():
        return
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], capture_output=True,
                               text=True, check=True).stdout.split()
        os.environ['MASTER_ADDR'] = hosts[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    distributed.init_process_group('gloo', rank=rank, world_size=world_size)
    # MMEngine would hand DDP a GPU index.
    config.setdefault('model_wrapper_cfg',
                      dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
                           find_unused_parameters=config.get('find_unused_parameters', False)))
    if rank == 0:
        print_log(f'WARNING: no GPU is visible; {world_size} processes train on the CPU over gloo.')


def launched_rank() -> int:
    """Which of the launched processes this is; 0 without a launcher."""
    return next((int(os.environ[names[0]]) for names in _RANK_VARIABLES.values() if names[0] in os.environ), 0)

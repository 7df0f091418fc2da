"""Processes, devices and nodes: how many there are, where they meet, and batch norm over all of them.

Of batch norm: N batch, C channels, R ranks; statistics are per channel, over N and all positions.
"""

import atexit
import fcntl
import gc
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, MutableMapping
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_main_process
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.nn.modules.batchnorm import _BatchNorm

from ralamala_mm.errors import UserError

Result = TypeVar('Result')
_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_ANY_PORT = 9  # nothing is sent: connecting a datagram socket only looks the route up
# Where each launcher says which process this is: rank, number of processes, rank on this node.
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
_STARTERS = {'pytorch': 'tools/dist_train.sh or torchrun', 'slurm': 'tools/slurm_train.sh or srun', 'mpi': 'mpirun'}
# The launchers' own variables, and those of the same meaning.
_OURS = {'NNODES': 'PET_NNODES', 'NODE_RANK': 'PET_NODE_RANK', 'MASTER_ADDR': 'PET_MASTER_ADDR', 'PORT': 'PET_MASTER_PORT'}
# What else says where nodes meet. torchrun takes each for the default of its option, whatever the launcher was given.
_OTHERS = ('PET_NPROC_PER_NODE', 'PET_MAX_RESTARTS', 'PET_STANDALONE', 'PET_LOCAL_ADDR', 'PET_RDZV_BACKEND', 'PET_RDZV_ENDPOINT',
           'PET_RDZV_ID', 'PET_RDZV_CONF')
_NAME_TIME = 300  # seconds in which the name of node 0 may become known: it is when its pod has an address


def local_address(host: str) -> str:
    """The IP address that this machine has on its way to `host`.

    Raises:
        UserError: the host's name is not known here, or no network leads to it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
    except socket.gaierror as error:
        raise UserError(f'MASTER_ADDR={host} is not known on this node ({error.strerror}): give the name or the IP '
                        'address of the node with NODE_RANK 0') from error
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise UserError(f'MASTER_ADDR={host} ({address[0]}) cannot be reached from this node: {error.strerror}') from error
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """The name of the interface with an IPv4 address, such as eth0; None when it has none here, and for IPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                request = fcntl.ioctl(probe, _GET_ADDRESS, struct.pack('256s', name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(request[20:24]) == address:
                return name
    # All of 127.0.0.0/8 is the loopback interface, which is listed with its first address only.
    return 'lo' if ipaddress.ip_address(address).is_loopback else None


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


def from_rank_0(function: Callable[[], Result]) -> Result:
    """What a function returns on rank 0, on all ranks: a folder may look otherwise from another node, or a moment later.

    Raises:
        UserError: rank 0's, on all of them.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return function()
    found = [None, None]
    if is_main_process():
        try:
            found[0] = function()
        except UserError as error:
            found[1] = error.sentence
    # Not in the group of the training, whose timeout would end the others while rank 0 reads a large data set.
    group = distributed.new_group(backend='gloo', timeout=timedelta(days=1))
    distributed.broadcast_object_list(found, src=0, group=group)
    if found[1]:
        raise UserError(found[1])
    return found[0]


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


def take_scheduler_variables(environment: MutableMapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Moves PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT to NNODES, NODE_RANK, MASTER_ADDR and PORT.

    What the launcher was given wins. No PET_* variable that concerns nodes and processes remains for torchrun to read.

    Args:
        environment: such as `os.environ`; changed in place.

    Returns:
        The PET_* variables that were there, and a sentence for each that was overruled.

    Raises:
        UserError: the job may change its number of nodes, wants another rendezvous than c10d, or its endpoint is no address.
    """
    given = {name: environment.pop(name) for name in (*_OURS.values(), *_OTHERS) if name in environment}
    backend = given.get('PET_RDZV_BACKEND', 'c10d')
    if backend not in ('c10d', 'static'):
        raise UserError(f'PET_RDZV_BACKEND={backend}: the launchers know c10d, which is rdzvBackend: c10d in the job')
    sources = {ours: theirs for ours, theirs in _OURS.items() if given.get(theirs)}
    found = {ours: given[theirs] for ours, theirs in sources.items()}
    endpoint = given.get('PET_RDZV_ENDPOINT')
    if 'MASTER_ADDR' not in found and endpoint:
        try:
            host, port = parse_rendezvous_endpoint(endpoint, default_port=0)
        except ValueError as error:
            raise UserError(f'PET_RDZV_ENDPOINT={endpoint}: {error}') from None
        parts = {'MASTER_ADDR': host, **({'PORT': str(port)} if port else {})}
        found |= parts
        sources |= dict.fromkeys(parts, 'PET_RDZV_ENDPOINT')
    least, _, most = found.get('NNODES', '').partition(':')
    if most and least != most and not environment.get('NNODES'):
        raise UserError(f'PET_NNODES={found["NNODES"]}: another number of nodes would change the batch during the training; set '
                        'minReplicas and maxReplicas of the job to the same number')
    if most and most == least:
        found['NNODES'] = most
    notes = []
    for ours, value in found.items():
        if not environment.get(ours):
            environment[ours] = value
        elif environment[ours] != value:
            notes.append(f'{ours}={environment[ours]} is used, not {value} of {sources[ours]}')
    return given, notes


def count_processes(asked: str) -> int:
    """How many processes this node gets, from a number or torchrun's words.

    Args:
        asked: a number; 'auto', one per GPU, or without any GPU one per core; 'gpu' or 'cpu'.

    Raises:
        UserError: it is none of these, or 'gpu' where there is none.
    """
    if asked.isdecimal():
        return int(asked)
    gpus = torch.cuda.device_count()
    if asked == 'gpu' and not gpus:
        raise UserError('one process per GPU was asked for (gpu), but torch sees none here: check nvidia-smi and that torch was '
                        'built for CUDA')
    if asked in ('auto', 'gpu', 'cpu'):
        return gpus if gpus and asked != 'cpu' else len(os.sched_getaffinity(0))
    raise UserError(f'the number of GPUs must be an integer or auto, got {asked}')


def await_name(host: str, seconds: float = _NAME_TIME) -> None:
    """Waits until a host's name is known here, for so many seconds; a scheduler makes it known once the host has started."""
    deadline = time.monotonic() + seconds
    waiting = False
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror:
            if time.monotonic() > deadline:
                return  # whoever connects to it says what is wrong
        if not waiting:
            print(f'waiting up to {seconds:.0f} s for the name {host} of node 0', file=sys.stderr, flush=True)
            waiting = True
        time.sleep(min(2, seconds))


class _Normalize(torch.autograd.Function):
    """(x − mean) / √(var + eps), with mean and variance over all processes."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float, group: distributed.ProcessGroup | None) -> tuple[Tensor, ...]:
        """The normalized `x`, the mean and biased variance, both `[C]`, and the count behind them, `[1]`."""
        dims = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.size(1)
        mean = wide.sum(dims) / max(count, 1)
        squares = (wide - _per_channel(mean, x)).square().sum(dims)
        own = torch.cat([mean, squares, mean.new_tensor([count])])
        everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(everyone, own, group=group)
        means, squares, counts = torch.stack(everyone).split([x.size(1), x.size(1), 1], dim=1)  # [R, C], [R, C], [R, 1]
        # Means and centred squares, as sums of squares would cancel where the mean is large.
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total.clamp(min=1)
        variance = (squares + counts * (means - mean).square()).sum(0) / total.clamp(min=1)
        inverse = (variance + eps).rsqrt()
        normalized = (wide - _per_channel(mean, x)) * _per_channel(inverse, x)
        ctx.save_for_backward(normalized, inverse, total)
        ctx.group = group
        ctx.dims = dims
        ctx.dtype = x.dtype
        ctx.mark_non_differentiable(mean, variance, total)
        return normalized, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        """∂L/∂x of the sum of all processes' losses."""
        normalized, inverse, total = ctx.saved_tensors
        sums = torch.stack([grad.sum(ctx.dims), (grad * normalized).sum(ctx.dims)])
        distributed.all_reduce(sums, group=ctx.group)
        mean, slope = (_per_channel(part, grad) for part in sums / total.clamp(min=1))
        return ((grad - mean - normalized * slope) * _per_channel(inverse, grad)).to(ctx.dtype), None, None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """`[C]` in a shape that goes with `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


class GatheredBatchNorm(_BatchNorm):
    """Synchronised batch norm on any device; arguments, state dict and results are those of BatchNorm on the whole batch.

    Statistics are weighted with the processes' batch sizes, which may differ or be 0. In evaluation mode, and without
    several processes, it is a plain batch norm.

    Args:
        process_group: the processes to normalize over; all by default.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: distributed.ProcessGroup | None = None) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f'a batch norm takes 2 dimensions or more, not {x.dim()}')

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes.

        Args:
            x: `[N, C, ...]`, of any memory format; N may be 0.

        Raises:
            ValueError: there is one value per channel in all, of which no variance can be taken.
        """
        together = distributed.is_initialized() and distributed.get_world_size(self.process_group) > 1
        if not (self.training and together):
            return super().forward(x)
        self._check_input_dim(x)
        normalized, mean, variance, total = _Normalize.apply(x, self.eps, self.process_group)
        count = int(total)
        if count == 1:
            raise ValueError(f'expected more than 1 value per channel when training, got input size {tuple(x.shape)}')
        if self.track_running_stats:
            self._track(mean, variance, count)
        if self.affine:
            normalized = normalized * _per_channel(self.weight, x) + _per_channel(self.bias, x)
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        if not count:
            return
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def gather_batch_norms(model: nn.Module, also_plain: bool = False) -> nn.Module:
    """Replaces synchronised batch norms, PyTorch's and MMCV's, by ones that work on the CPU.

    Args:
        model: parameters and buffers stay the same tensors.
        also_plain: replaces batch norms that are not synchronised too, as the config's `sync_bn` asks for.
    """
    if isinstance(model, GatheredBatchNorm):
        return model
    if _is_synchronised(model) or (also_plain and isinstance(model, _BatchNorm)):
        return _gathered(model)
    for name, child in model.named_children():
        replaced = gather_batch_norms(child, also_plain)
        if replaced is not child:
            setattr(model, name, replaced)
    return model


def _is_synchronised(module: nn.Module) -> bool:
    # MMCV's SyncBatchNorm can be imported only where its operators were built; its name tells as much.
    return isinstance(module, nn.SyncBatchNorm) or (
        type(module).__name__ == 'SyncBatchNorm' and type(module).__module__.startswith('mmcv.'))


def _gathered(module: nn.Module) -> GatheredBatchNorm:
    group = getattr(module, 'process_group', getattr(module, 'group', None))
    replaced = GatheredBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats,
                                 process_group=group)
    for name, value in [*module._parameters.items(), *module._buffers.items()]:
        setattr(replaced, name, value)
    return replaced.train(module.training)

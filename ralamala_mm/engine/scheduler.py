"""Where the nodes of a job meet, from the PET_* variables that Kubernetes' training operators set for torchrun."""

import os
import socket
import sys
import time
from collections.abc import MutableMapping

import torch
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from ralamala_mm.errors import UserError

# The launchers' own variables, and those of the same meaning.
_OURS = {'NNODES': 'PET_NNODES', 'NODE_RANK': 'PET_NODE_RANK', 'MASTER_ADDR': 'PET_MASTER_ADDR', 'PORT': 'PET_MASTER_PORT'}
# What else says where nodes meet. torchrun takes each for the default of its option, whatever the launcher was given.
_OTHERS = ('PET_NPROC_PER_NODE', 'PET_MAX_RESTARTS', 'PET_STANDALONE', 'PET_LOCAL_ADDR', 'PET_RDZV_BACKEND', 'PET_RDZV_ENDPOINT',
           'PET_RDZV_ID', 'PET_RDZV_CONF')
_NAME_TIME = 300  # seconds in which the name of node 0 may become known: it is when its pod has an address


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
    raise UserError(f'the number of GPUs must be a whole number or auto, not {asked}')


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

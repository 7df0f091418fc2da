"""Starts train.py or test.py once per GPU of this node with torchrun; dist_train.sh and dist_test.sh call it.

NNODES, NODE_RANK, MASTER_ADDR and PORT describe a run over several nodes; on one node a free port is taken. Where they are not
set, the PET_* variables count that Kubernetes' training operators set.
With --max-restarts among the arguments of train.py the processes are started again when one or a whole node fails, from
the newest checkpoint; a node that comes back joins in, for which the others wait JOIN_TIMEOUT seconds.
"""

import argparse
import os
import sys
import uuid
from pathlib import Path

import torch.distributed
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError, RendezvousTimeoutError

TOOLS = Path(__file__).resolve().parent
# Set before anything of ours is imported: the processes and this one must find the package next to tools/.
sys.path.insert(0, str(TOOLS.parent))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(TOOLS.parent), os.environ.get('PYTHONPATH')]))

from ralamala_mm.engine import check_process_count, run  # noqa: E402
from ralamala_mm.engine.distributed import (  # noqa: E402
    await_name,
    count_processes,
    local_address,
    take_scheduler_variables,
)
from ralamala_mm.engine.elastic import run_elastic  # noqa: E402
from ralamala_mm.errors import UserError  # noqa: E402

# torch before 2.2 raises a RuntimeError instead, which shows as such.
NETWORK_ERRORS = tuple(vars(torch.distributed)[name] for name in ('DistNetworkError', 'DistStoreError')
                       if hasattr(torch.distributed, name))
LATECOMERS = 300  # seconds for which a node tries to reach node 0 at the start


def number(name: str, default: int, least: int = 0) -> int:
    """An environment variable that counts something."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f'{name} must be an integer of at least {least}, got {text}')
    return int(text)


def rendezvous(nodes: int, node_rank: int | None, restarts: int) -> list[str]:
    """torchrun's options for where the processes of all nodes meet.

    Args:
        nodes: how many there are.
        node_rank: which one this is; None where nobody numbers them, and node 0 is the one that MASTER_ADDR names.
        restarts: how often processes may be started again.
    """
    port = number('PORT', 0 if nodes == 1 else 29500)
    if nodes == 1:
        return ['--nnodes', '1', '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'127.0.0.1:{port}', '--rdzv-conf', 'is_host=1',
                '--rdzv-id', str(uuid.uuid4()), '--local-addr', '127.0.0.1']
    master = os.environ.get('MASTER_ADDR')
    if not master:
        raise UserError(f'NNODES={nodes} needs MASTER_ADDR, the name or IP address of the node with NODE_RANK 0')
    if node_rank is not None and node_rank >= nodes:
        raise UserError(f'NODE_RANK={node_rank} does not go with NNODES={nodes}: the nodes are numbered from 0 to {nodes - 1}')
    # What the other nodes reach this one by. Node 0 may know its own name as a loopback address.
    address = local_address(master)
    if not restarts and node_rank is not None:
        # Each node keeps its number, and nothing but node 0's port is needed; torchrun cannot take a lost node back then.
        return ['--nnodes', str(nodes), '--node-rank', str(node_rank), '--master-addr', master, '--master-port', str(port)]
    # With a store that torchrun keeps over restarts, a node that comes back waits for an address that nobody announces again.
    os.environ['TORCH_DISABLE_SHARE_RDZV_TCP_STORE'] = '1'
    join = number('JOIN_TIMEOUT', 1800, least=1)
    settings = f'join_timeout={join},read_timeout={min(join, LATECOMERS)}'
    if node_rank is not None:
        settings = f'is_host={int(node_rank == 0)},{settings}'
    return ['--nnodes', str(nodes), '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{master}:{port}', '--rdzv-conf', settings,
            '--rdzv-id', f'port-{port}', '--local-addr', master if node_rank == 0 else address]


def take_restarts(script: str, arguments: list[str], default: int = 0) -> tuple[int, list[str]]:
    """`--max-restarts` out of the arguments of train.py, which resumes by itself then.

    Args:
        script: which one is started.
        arguments: all of its arguments.
        default: the restarts of a training that `--max-restarts` says nothing about.

    Raises:
        UserError: it does not go with the script or the other arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--max-restarts', type=int, default=default if script == 'train.py' else 0)
    options, rest = parser.parse_known_args(arguments)
    if options.max_restarts < 0:
        raise UserError(f'--max-restarts must be 0 or more, not {options.max_restarts}')
    if not options.max_restarts:
        return 0, rest
    if script != 'train.py':
        raise UserError('--max-restarts is for training: an evaluation has nothing to continue from')
    for i, word in enumerate(rest):
        name, given, _ = word.partition('=')
        if len(name) > 2 and '--resume'.startswith(name):
            if given or (rest[i + 1:] and not rest[i + 1].startswith('-')):
                raise UserError('--max-restarts continues from the newest checkpoint of the work directory, and each restart '
                                'would go back to --resume PATH: give --resume alone, or leave --max-restarts out')
            return options.max_restarts, rest
    # Also at the first start: a node that comes back cannot know that the others have begun.
    return options.max_restarts, [*rest, '--resume']


def explain(error: Exception, nodes: int) -> UserError:
    """Why the nodes did not find each other."""
    port = os.environ.get('PORT') or '29500'
    where = f'{os.environ.get("MASTER_ADDR", "127.0.0.1")}:{port}'
    if 'EADDRINUSE' in f'{error}{error.__cause__}':
        return UserError(f'port {port} of this node is in use, perhaps by another training: set PORT to another one'
                         f'{", the same on all nodes" if nodes > 1 else ""}')
    if isinstance(error, RendezvousTimeoutError):
        return UserError(f'not all of the {nodes} nodes came to {where} in time: start the same command on each, with its '
                         'own NODE_RANK; JOIN_TIMEOUT sets the seconds')
    if isinstance(error, RendezvousClosedError):
        return UserError(f'the run that is met at {where} has ended: start all nodes again')
    return UserError(f'the connection to node 0 at {where} failed: see that it runs, with the same NNODES and PORT, and that '
                     'no firewall is between')


def main(args: argparse.Namespace) -> None:
    scheduler, notes = take_scheduler_variables(os.environ)
    gpus = count_processes(args.gpus)
    asked = scheduler.get('PET_NPROC_PER_NODE', args.gpus)
    if asked not in (args.gpus, str(gpus)):
        notes.append(f'{gpus} processes are started on this node, not {asked} of PET_NPROC_PER_NODE')
    for note in notes:
        print(f'note: {note}.', file=sys.stderr, flush=True)
    check_process_count(gpus)
    nodes, node_rank = number('NNODES', 1, least=1), number('NODE_RANK', 0)
    if 'PET_RDZV_ENDPOINT' in scheduler and 'NODE_RANK' not in os.environ:
        node_rank = None
    if nodes > 1 and ('PET_MASTER_ADDR' in scheduler or 'PET_RDZV_ENDPOINT' in scheduler):
        await_name(os.environ['MASTER_ADDR'])
    allowed = scheduler.get('PET_MAX_RESTARTS', '')
    restarts, arguments = take_restarts(args.script, args.arguments, int(allowed) if allowed.isdecimal() else 0)
    options = [*rendezvous(nodes, node_rank, restarts), '--nproc-per-node', str(gpus), '--max-restarts', str(restarts)]
    script = [str(TOOLS / args.script), *arguments, '--launcher', 'pytorch']
    config, program, words = torchrun.config_from_args(torchrun.get_args_parser().parse_args([*options, *script]))
    try:
        code = run_elastic(config, [program, *words])
    except SignalException as error:  # SIGINT: the terminal's Ctrl-C
        sys.exit(128 + error.sigval)
    except (RendezvousError, *NETWORK_ERRORS) as error:
        raise explain(error, nodes) from error
    sys.exit(code)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('script', choices=['train.py', 'test.py'])
    parser.add_argument('gpus', help='processes on this node; auto: one per GPU')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='arguments of the script')
    parser.set_defaults(traceback=False)
    run(parser, main)

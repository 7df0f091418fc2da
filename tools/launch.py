"""Starts train.py or test.py once per GPU of this node with torchrun; dist_train.sh and dist_test.sh call it.

NNODES, NODE_RANK, MASTER_ADDR and PORT describe a run over several nodes; on one node a free port is taken.
"""

import argparse
import os
import sys
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

TOOLS = Path(__file__).resolve().parent
# Set before anything of ours is imported: the processes and this one must find the package next to tools/.
sys.path.insert(0, str(TOOLS.parent))
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(TOOLS.parent), os.environ.get('PYTHONPATH')]))

from ralamala_mm.engine import check_process_count, run  # noqa: E402


def rendezvous() -> list[str]:
    """torchrun's options for where the processes of all nodes meet."""
    if os.environ.get('NNODES', '1') == '1' and 'PORT' not in os.environ:
        return ['--standalone']
    return ['--nnodes', os.environ.get('NNODES', '1'), '--node-rank', os.environ.get('NODE_RANK', '0'),
            '--master-addr', os.environ.get('MASTER_ADDR', '127.0.0.1'), '--master-port', os.environ.get('PORT', '29500')]


def main(args: argparse.Namespace) -> None:
    check_process_count(args.gpus)
    try:
        torchrun.main([*rendezvous(), '--nproc-per-node', str(args.gpus), str(TOOLS / args.script), *args.arguments,
                       '--launcher', 'pytorch'])
    except ChildFailedError as error:
        # The process that failed has said why; torchrun's own frames would only push it off the screen.
        sys.exit(next(iter(error.failures.values())).exitcode or 1)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('script', choices=['train.py', 'test.py'])
    parser.add_argument('gpus', type=int, help='processes on this node')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='arguments of the script')
    parser.set_defaults(traceback=False)
    run(parser, main)

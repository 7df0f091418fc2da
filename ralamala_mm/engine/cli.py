"""What the command lines have in common: shared options, and errors told in one sentence."""

import argparse
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

from mmengine.config import DictAction

from ralamala_mm.checkpoints import read_safely_everywhere, trust_checkpoints
from ralamala_mm.errors import UserError

from .failures import explain_failure
from .launch import launched_rank
from .stopping import TrainingStoppedError

OTHER_RANKS_WAIT = 3  # seconds
MAX_SENTENCE = 2000  # letters


def runner_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the config and the options that train and test share, named as in MMDetection."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and results go; work_dirs/CONFIG by default')
    parser.add_argument('--data', metavar='DIR', help='folder of the data: looked at, reported, and put into the config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings to override in the config, such as train_dataloader.batch_size=4; '
                             'lists as key="[a,b]" or key=a,b')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    add_trust_option(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--traceback', action='store_true', help='show the frames of an error')
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """`--trust-checkpoint`, the only way to have code in a checkpoint run, under one name in every tool; see `run`."""
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='let checkpoints run code while they are read, if they cannot be read without; '
                             'only if you trust who made them')


def add_amp_options(parser: argparse.ArgumentParser) -> None:
    """`amp`, the dtype of mixed precision or None."""
    parser.add_argument('--amp', action='store_const', const='float16', help='automatic mixed precision (needs a GPU)')
    parser.add_argument('--amp-dtype', dest='amp', choices=['float16', 'bfloat16'],
                        help='the same with another dtype; bfloat16 is for segmentors')


def tell(error: UserError) -> None:
    """Prints the sentence; processes other than the first wait a moment, and are ended if the first had the same to say."""
    rank = launched_rank()
    if rank:
        time.sleep(OTHER_RANKS_WAIT)
    # Names from files may hold anything, line breaks and a terminal's commands too.
    sentence = ''.join(letter if letter.isprintable() else ' ' for letter in error.sentence)
    sentence = f'{sentence[:MAX_SENTENCE]} …' if len(sentence) > MAX_SENTENCE else sentence
    end = '' if sentence.endswith(('.', '?')) else '.'
    print(f'error: {f"rank {rank}: " if rank else ""}{sentence}{end}', file=sys.stderr, flush=True)


def _exit_at_once(code: int) -> None:
    """Ends this process and its data loader workers.

    Not by sys.exit: after an error in one rank the others may be waiting, and threads of gloo keep Python alive. Workers
    are ended by hand, as one that still has a batch to hand over would wait for ever.
    """
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises when a worker dies
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Calls `main` with the parsed arguments; a `UserError` ends in its sentence on stderr and exit code 1.

    Every way to a checkpoint, MMEngine's own too, reads it without running code from it, unless `--trust-checkpoint` was given.
    """
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    try:
        args = parser.parse_args()
    except ValueError:  # from MMEngine's DictAction
        parser.error('--cfg-options takes settings as KEY=VALUE')
    read_safely_everywhere()
    trust_checkpoints(getattr(args, 'trust_checkpoint', False))
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    try:
        main(args)
    except UserError as error:
        if args.traceback:
            raise
        stopped_together = isinstance(error, TrainingStoppedError)
        if not stopped_together or launched_rank() == 0:
            tell(error)
        _exit_at_once(error.exit_code if stopped_together else 1)
    except TypeError as error:
        # Only where MMEngine builds a part from its config: "X.__init__() got an unexpected keyword argument 'y'".
        match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        built = traceback.extract_tb(error.__traceback__)[-1].name == 'build_from_cfg'
        if args.traceback or not (match and built):
            raise
        tell(UserError(f"the config gives {match[1]} an unexpected keyword argument '{match[2]}'"))
        _exit_at_once(1)
    except (RuntimeError, OSError, MemoryError) as error:
        sentence = explain_failure(error)
        if args.traceback or not sentence:
            raise
        tell(UserError(sentence))
        _exit_at_once(1)
    except KeyboardInterrupt:
        if launched_rank() == 0:
            print('interrupted', file=sys.stderr, flush=True)
        _exit_at_once(130)

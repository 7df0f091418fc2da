"""What the command lines have in common: shared options, and errors reported in one sentence."""

import argparse
import logging
import multiprocessing
import os
import re
import reprlib
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Container
from pathlib import Path

from mmengine.config import ConfigDict, DictAction

from ralamala_mm.checkpoints import read_safely_everywhere, trust_checkpoints
from ralamala_mm.datasets.coco_checks import CROWDS
from ralamala_mm.errors import UserError

from .distributed import launched_rank
from .interruption import TrainingStoppedError
from .progress import wipe_line

# What the error's type and text hold; what is reported; what may be done in any tool; and what where a tool has the option,
# of which `resume` is the training's. The first that matches counts.
_FAILURES = (
    (r'DataLoader worker.*Bus error|unable to [\w ()]+<[^>]*torch_',
     'the shared memory of the data loader workers, /dev/shm, is full',
     'give the container more (docker run --shm-size=8g; on Kubernetes an emptyDir with medium: Memory at /dev/shm)',
     dict(resume='lower train_dataloader.num_workers', workers='lower --workers')),
    (r'DataLoader worker \(pid\S* [\d, ]+\).*(?:signal|exited unexpectedly)|^from a worker: ',
     'a data loader worker died, most often for want of memory', 'give the job more memory (/dev/shm too)',
     dict(resume='lower train_dataloader.num_workers', workers='lower --workers')),
    (r'(?:CUDA|HIP) out of memory',
     "the GPU's memory is full", 'take smaller images',
     dict(resume='lower train_dataloader.batch_size (with --auto-scale-lr), or set model.backbone.with_cp=True or --amp',
          batch_size='lower --batch-size', tile='predict smaller tiles with --tile', device='take --device cpu')),
    (r'No space left on device|Disk quota exceeded',
     'the disk that is written to, /tmp or /dev/shm is full', 'free disk space there', {}),
    (r"MemoryError: |DefaultCPUAllocator: can't allocate memory|Cannot allocate memory",
     'the memory is full', 'give the job more',
     dict(resume='lower train_dataloader.batch_size or num_workers, or set model.backbone.with_cp=True',
          batch_size='lower --batch-size', tile='predict smaller tiles with --tile', workers='lower --workers')),
    (r"not implemented for 'BFloat16'|but found BFloat16|got BFloat16",
     'an operator of this model takes no bfloat16', 'compute in fp32',
     dict(resume='take --amp for float16 (--amp-dtype bfloat16 casts for RoIAlign, NMS and focal loss, and for no other)',
          dtype='take --dtype float16')),
    (r'^BrokenPipeError: ',
     'a pipe broke', 'see why what read this output, or a process of its own, has ended', {}),
    (r'Connection (?:closed|reset) by peer|gloo.*(?:[Tt]imed? ?out|closure)|ncclRemoteError|NCCL communicator was aborted|'
     r'Watchdog caught collective operation timeout|Broken pipe',
     'a connection to another process or machine was lost, or not answered in time', 'try again',
     dict(launcher='see what the other processes said last, or set env_cfg.dist_cfg.timeout to more seconds')),
)
OTHER_RANKS_WAIT = 3  # seconds
MAX_SENTENCE = 2000  # letters
PACKAGE = Path(__file__).resolve().parents[1]
# MMEngine's functions that make a part of the run, and what they call its config.
_BUILDERS = {'build_from_cfg': 'cfg', 'build_scheduler_from_cfg': 'cfg', 'build_optim_wrapper': 'cfg',
             'build_dataloader': 'dataloader_cfg', 'set_randomness': 'seed'}
_CONFIG_ERRORS = (KeyError, TypeError, ValueError, AttributeError, AssertionError, IndexError, ImportError)


def explain_failure(error: BaseException, options: Container[str] = ()) -> str | None:
    """A sentence for a failure of the machine; None for anything else, which is to be shown with its frames.

    Args:
        error: what was raised.
        options: the tool's, such as its parsed arguments; no other is advised.
    """
    if not isinstance(error, RuntimeError | OSError | MemoryError | EOFError):
        return None
    text = f'{"from a worker: " if _is_cut_off_worker(error) else ""}{type(error).__name__}: {error}'
    for pattern, what, in_any_tool, by_option in _FAILURES:
        if re.search(pattern, text, re.DOTALL):
            remedies = [remedy for option, remedy in by_option.items() if option in options]
            goes_on = '; --resume continues from the newest checkpoint' if 'resume' in options else ''
            return f'{what}: {", or ".join([*remedies, in_any_tool])}{goes_on}'
    return None


def _is_cut_off_worker(error: BaseException) -> bool:
    """Whether a data loader was reading from a worker that ended in the midst of it, before PyTorch saw that it had."""
    return isinstance(error, ConnectionError | EOFError) and any(
        frame.f_code.co_name == '_try_get_data' for frame, _ in traceback.walk_tb(error.__traceback__))


def runner_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the config and the options that train and test share, named as in MMDetection."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and results go; work_dirs/CONFIG by default')
    add_data_options(parser)
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    add_trust_option(parser)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """`--data` and what belongs to it."""
    parser.add_argument('--data', metavar='DIR', help='folder of the data: inspected, reported, and put into the config')
    parser.add_argument('--iscrowd', choices=CROWDS, help='what instances marked iscrowd or ignore in --data are: objects like '
                        'all others, as datumaro, supervision and CVAT\'s brush mark them, or crowds, to be ignored')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """`--cfg-options`, a dict or None."""
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings to override in the config, such as train_dataloader.batch_size=4; '
                             'lists as key="[a,b]" or key=a,b')


def add_traceback_option(parser: argparse.ArgumentParser) -> None:
    """`--traceback`, which `run` adds to each tool; subcommands need it of their own."""
    parser.add_argument('--traceback', action='store_true', help='show the frames of an error')


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """`--trust-checkpoint`, the only way to have code in a checkpoint run, under one name in every tool; see `run`."""
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='let checkpoints run code while they are read, if they cannot be read without: all that this '
                             'command or its config names; only if you trust who made them')


def add_amp_options(parser: argparse.ArgumentParser) -> None:
    """`amp`, the dtype of mixed precision or None."""
    parser.add_argument('--amp', action='store_const', const='float16', help='automatic mixed precision (needs a GPU)')
    parser.add_argument('--amp-dtype', dest='amp', choices=['float16', 'bfloat16'],
                        help='the same with another dtype; bfloat16 works on a CPU too')


def tell(error: UserError, rank: int = 0) -> None:
    """Prints the sentence; processes other than the first wait a moment, and are ended if the first had the same to say."""
    if rank:
        time.sleep(OTHER_RANKS_WAIT)
    # Names from files may hold anything, line breaks and a terminal's commands too.
    sentence = ''.join(letter if letter.isprintable() else ' ' for letter in error.sentence)
    sentence = f'{sentence[:MAX_SENTENCE]} …' if len(sentence) > MAX_SENTENCE else sentence
    end = '' if sentence.endswith(('.', '?')) else '.'
    if sys.stdout.isatty():
        wipe_line()
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


def explain_building(error: Exception) -> str | None:
    """A sentence for what goes wrong while MMEngine makes a part from its config; None for anything else.

    An error that comes out of this package's own code is ours: it is shown with its frames.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    building = [frame for frame in frames if frame.f_code.co_name in _BUILDERS and '/mmengine/' in frame.f_code.co_filename]
    if not building or not isinstance(error, _CONFIG_ERRORS) or Path(frames[-1].f_code.co_filename).is_relative_to(PACKAGE):
        return None
    message = str(error.args[0] if error.args else error).split('. Please check')[0]
    if match := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message):
        return f"the config gives {match[1]} an unexpected keyword argument '{match[2]}'"
    part = building[-1].f_locals.get(_BUILDERS[building[-1].f_code.co_name])
    part = reprlib.repr(part.to_dict() if isinstance(part, ConfigDict) else part)
    reason = re.sub(r'^(class `\w+` in \S+: )+', '', message) or type(error).__name__
    return f'the config cannot be built: {reason}, in the part {part}'


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Calls `main` with the parsed arguments; a `UserError` ends in its sentence on stderr and exit code 1.

    Every way to a checkpoint, MMEngine's own too, reads it without running code from it, unless `--trust-checkpoint` was given.
    """
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    if parser.get_default('traceback') is None:
        add_traceback_option(parser)
    logging.raiseExceptions = False  # else a full disk prints frames for each line that the log file does not take
    try:
        args = parser.parse_args()
    except ValueError:  # from MMEngine's DictAction
        parser.error('--cfg-options takes settings as KEY=VALUE')
    read_safely_everywhere()
    trust_checkpoints(getattr(args, 'trust_checkpoint', False))
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    rank = launched_rank(getattr(args, 'launcher', 'none'))
    try:
        main(args)
    except UserError as error:
        if args.traceback:
            raise
        stopped_together = isinstance(error, TrainingStoppedError)
        if not stopped_together or rank == 0:
            tell(error, rank)
        _exit_at_once(error.exit_code if stopped_together else 1)
    except Exception as error:
        sentence = explain_failure(error, args) or explain_building(error)
        if args.traceback or not sentence:
            raise
        tell(UserError(sentence), rank)
        _exit_at_once(1)
    except KeyboardInterrupt:
        if rank == 0:
            print('interrupted', file=sys.stderr, flush=True)
        _exit_at_once(130)

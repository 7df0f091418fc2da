"""Kills a training again and again, resumes it each time, and compares its end with that of a training left alone.

    python tests/faults/kill_and_resume.py --kills 50

Half of the kills are at a random moment after a random number of checkpoints, half while a checkpoint is being written, on a
disk made slow. After each kill the newest complete checkpoint must be no older than the last one that was complete before it, and
at the end weights, averaged weights and the optimizer's state must be those of the undisturbed training to the last bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ralamala_mm.checkpoints.integrity import newest_complete, training_progress
from ralamala_mm.datasets.shapes import make_shapes
from ralamala_mm.files import UNFINISHED

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).resolve().parent / 'configs'
TIME_TO_START, TIME_TO_END = 180, 1800  # seconds
POLL = 0.01


class Training:
    """A command line of train.py for a tiny model, long enough for so many kills."""

    def __init__(self, config: str, work_dir: Path, data: Path, kills: int):
        length = 9 * kills + 12  # they end quickly, and each kill waits for a checkpoint or two
        options = dict(epochs=[f'train_cfg.max_epochs={length}', 'train_cfg.val_interval=3'],
                       iterations=[f'train_cfg.max_iters={5 * length}', 'train_cfg.val_interval=15'])
        self.work_dir = work_dir
        counted = options['epochs' if 'detector' in config else 'iterations']
        self.command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(CONFIGS / config), '--data', str(data), '--resume',
                        '--work-dir', str(work_dir), '--cfg-options', *counted, 'default_hooks.logger.interval=20',
                        "custom_imports.imports=['ralamala_mm','slow_disk']"]
        self.environment = dict(os.environ, PYTHONPATH=os.pathsep.join(
            [str(Path(__file__).resolve().parent), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1')

    def start(self) -> subprocess.Popen:
        """Starts or resumes it; what it prints is added to the work directory's `output.txt`."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'output.txt').open('a') as output:
            return subprocess.Popen(self.command, env=self.environment, stdout=output, stderr=subprocess.STDOUT,
                                    start_new_session=True)

    def finish(self) -> None:
        """Runs it to its end."""
        process = self.start()
        if process.wait(TIME_TO_END) != 0:
            raise AssertionError(f'the training failed:\n{self.output[-3000:]}')

    @property
    def output(self) -> str:
        return (self.work_dir / 'output.txt').read_text()

    def saved(self) -> int:
        """Iterations behind the newest complete checkpoint, 0 without one."""
        path, _ = newest_complete(self.work_dir)
        return training_progress(path)['iter'] if path else 0

    def pointed(self) -> int:
        """Iterations behind the checkpoint that the pointer names; damage to it is an error."""
        pointer = self.work_dir / 'last_checkpoint'
        return training_progress(Path(pointer.read_text()))['iter'] if pointer.exists() else 0

    def pointer_time(self) -> int:
        """When the last checkpoint was complete, in the file system's nanoseconds."""
        path = self.work_dir / 'last_checkpoint'
        return path.stat().st_mtime_ns if path.exists() else 0

    def is_writing(self) -> bool:
        return any(self.work_dir.glob(f'.*.pth.*{UNFINISHED}'))


def wait_until(condition, process: subprocess.Popen, seconds: float) -> bool:
    """Whether it came true before the process ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if condition():
            return True
        if time.monotonic() > deadline:
            raise AssertionError('the training does not get on')
        time.sleep(POLL)
    return False


def kill_once(training: Training, chance: random.Random, while_saving: bool) -> bool:
    """Resumes the training and kills it with all its workers; whether it lived to be killed."""
    process = training.start()
    begun = training.pointer_time()
    for _ in range(chance.randint(0, 2) if not while_saving else chance.randint(0, 1)):
        wait_until(lambda before=begun: training.pointer_time() != before, process, TIME_TO_START)
        begun = training.pointer_time()
    lived = wait_until(training.is_writing, process, TIME_TO_START) if while_saving else True
    time.sleep(chance.uniform(0, 0.6 if while_saving else 1.5))
    lived = lived and process.poll() is None
    if lived:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return lived


def kill_many(training: Training, kills: int, seed: int) -> Iterator[str]:
    """Kills until there were so many, checking what is left each time; a line for each.

    Raises:
        AssertionError: a checkpoint that was complete is gone, or the training failed.
    """
    chance = random.Random(seed)
    saved = 0
    for number in range(1, kills + 1):
        while_saving = number % 2 == 0
        lived = kill_once(training, chance, while_saving)
        if 'Traceback' in training.output or 'error: ' in training.output:
            raise AssertionError(f'the training failed:\n{training.output[-3000:]}')
        if not lived:
            raise AssertionError('the training ended before all kills were made; make it longer')
        now = training.saved()
        saved = max(saved, training.pointed())
        if now < saved:
            raise AssertionError(f'kill {number}: iteration {saved} was saved, and the newest complete checkpoint is of {now}')
        saved = now
        moment = 'while a checkpoint was written' if while_saving else 'at a random moment'
        yield f'kill {number} of {kills} {moment}: the newest complete checkpoint is of iteration {saved}'


def differences(first: object, second: object, name: str = '') -> Iterator[str]:
    """Where two nested structures of tensors and numbers differ in any bit."""
    if isinstance(first, Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield f'{name} (by up to {(first.double() - second.double()).abs().max().item():.2g})'
    elif isinstance(first, dict):
        if first.keys() != second.keys():
            yield f'{name}: {first.keys() ^ second.keys()}'
        for key in first.keys() & second.keys():
            yield from differences(first[key], second[key], f'{name}.{key}')
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            yield f'{name}: {len(first)} and {len(second)} entries'
        for i, (one, other) in enumerate(zip(first, second, strict=False)):
            yield from differences(one, other, f'{name}.{i}')
    elif first != second:
        yield f'{name}: {first} and {second}'


def compare(left_alone: Training, killed: Training) -> int:
    """Compares the last checkpoints; the number of entries of the weights.

    Raises:
        AssertionError: something differs.
    """
    first, second = (torch.load(newest_complete(training.work_dir)[0], weights_only=True) for training in (left_alone, killed))
    parts = ['state_dict', 'optimizer', 'param_schedulers', *(['ema_state_dict'] if 'ema_state_dict' in first else [])]
    found = [text for part in parts for text in differences(first[part], second[part], part)]
    if found or first['meta']['iter'] != second['meta']['iter']:
        raise AssertionError(f'{len(found)} entries differ: {", ".join(found[:5])}')
    return len(first['state_dict'])


def prove(config: str, kills: int, folder: Path, seed: int = 0) -> Iterator[str]:
    """The whole proof for one config, a line at a time.

    Raises:
        AssertionError: something was lost, or the ends differ.
    """
    make_shapes(folder / 'shapes', train=12, val=4, size=64)
    left_alone = Training(config, folder / 'alone', folder / 'shapes', kills)
    left_alone.finish()
    yield f'{config}: the training left alone ended after {left_alone.saved()} iterations'
    killed = Training(config, folder / 'killed', folder / 'shapes', kills)
    yield from kill_many(killed, kills, seed)
    killed.finish()
    entries = compare(left_alone, killed)
    yield f'{config}: after {kills} kills all {entries} entries of the weights, and the optimizer, are the same to the last bit'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=50, help='half on a detector by epochs, half on a segmentor by iterations')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--folder', type=Path, help='where to keep everything; a temporary folder by default')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='kills-') as scratch:
        for config, kills in (('tiny_detector.py', args.kills - args.kills // 2), ('tiny_segmentor.py', args.kills // 2)):
            started = time.monotonic()
            for line in prove(config, kills, Path(args.folder or scratch, config.removesuffix('.py')), args.seed):
                print(f'{time.monotonic() - started:6.0f} s  {line}', flush=True)


if __name__ == '__main__':
    main()

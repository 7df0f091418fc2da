"""What only GPUs can show of stopping, resuming and sharding; one command, on one node.

    python tests/clusters/on_gpus.py            # all of its GPUs
    python tests/clusters/on_gpus.py --parts stop --processes 2

`stop` also runs without a GPU, over gloo. A line for each part says what was seen; the exit code is 1 if one failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ralamala_mm.checkpoints import read_checkpoint
from ralamala_mm.datasets.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'tests' / 'faults' / 'configs' / 'tiny_detector.py'
TIME_TO_SAVE, TIME_TO_END = 300, 1200  # seconds
SHARDED = '''_base_ = {base!r}
custom_hooks = []
strategy = dict(type='FSDPStrategy', state_dict_cfg='full', model_wrapper=dict(auto_wrap_policy=dict(
    type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=10**4)))
'''


class Job:
    """A training by dist_train.sh on the built-in images."""

    def __init__(self, folder: Path, name: str, processes: int, config: Path = CONFIG):
        self.work_dir = folder / name
        self._command = ['bash', ROOT / 'tools/dist_train.sh', config, processes, '--data', folder / 'shapes', '--work-dir',
                         self.work_dir, '--no-validate']

    def start(self, *options: str, epochs: int) -> subprocess.Popen:
        command = [str(word) for word in [*self._command, *options, '--cfg-options', f'train_cfg.max_epochs={epochs}']]
        with (self.work_dir.parent / f'{self.work_dir.name}.txt').open('a') as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                    env=dict(os.environ, OMP_NUM_THREADS='1', PYTHON=sys.executable))

    def run(self, *options: str, epochs: int) -> None:
        """Trains to the end."""
        if code := self.start(*options, epochs=epochs).wait(TIME_TO_END):
            raise AssertionError(f'exit code {code}: {self.output[-3000:]}')

    def stop(self, number: signal.Signals, *options: str) -> int:
        """Sends the launcher a signal once the first epoch is saved; its exit code."""
        process = self.start(*options, epochs=1000)
        deadline = time.monotonic() + TIME_TO_SAVE
        while not (self.work_dir / 'epoch_1.pth').exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f'no checkpoint came: {self.output[-3000:]}')
            time.sleep(0.1)
        process.send_signal(number)
        return process.wait(TIME_TO_SAVE)

    @property
    def output(self) -> str:
        return (self.work_dir.parent / f'{self.work_dir.name}.txt').read_text()

    def checkpoint(self) -> dict:
        return dict(read_checkpoint((self.work_dir / 'last_checkpoint').read_text()))


def stop(folder: Path, processes: int) -> str:
    """All processes agree on the iteration to stop after, beside NCCL's traffic, and continue from there."""
    seen = []
    for number, expected in [(signal.SIGUSR1, 75), (signal.SIGTERM, 143)]:
        job = Job(folder, number.name, processes)
        code = job.stop(number)
        if code != expected:
            raise AssertionError(f'{number.name} ended with {code}, not {expected}: {job.output[-3000:]}')
        meta = job.checkpoint()['meta']
        job.run('--resume', epochs=meta['epoch'] + 2)
        after = job.checkpoint()['meta']['iter']
        if after <= meta['iter']:
            raise AssertionError(f'the training did not continue after iteration {meta["iter"]}: {job.output[-3000:]}')
        seen.append(f'{number.name} saved iteration {meta["iter"]}, exit code {code}, continued to {after}')
    return '; '.join(seen)


def scaler(folder: Path, processes: int) -> str:
    """The loss scale of fp16 continues where it was, and so do the weights, as far as two undisturbed trainings agree."""
    jobs = dict(first=Job(folder, 'first', processes), second=Job(folder, 'second', processes),
                resumed=Job(folder, 'resumed', processes))
    for name in ('first', 'second'):
        jobs[name].run('--amp', epochs=6)
    jobs['resumed'].run('--amp', epochs=3)
    middle = jobs['resumed'].checkpoint()['optimizer']['loss_scaler']
    jobs['resumed'].run('--amp', '--resume', epochs=6)
    ends = {name: job.checkpoint() for name, job in jobs.items()}
    scales = {name: end['optimizer']['loss_scaler'] for name, end in ends.items()}
    if scales['resumed'] != scales['first'] or middle['_growth_tracker'] == 0:
        raise AssertionError(f'the loss scalers end as {scales}, and were {middle} in the middle')

    def distance(one: str, other: str) -> float:
        pairs = [(ends[one]['state_dict'][key].double(), value.double()) for key, value in ends[other]['state_dict'].items()]
        return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)

    return (f'the loss scaler ends as {json.dumps(scales["first"])} in all; largest relative difference of weights: resumed '
            f'{distance("resumed", "first"):.1e}, two undisturbed ones {distance("second", "first"):.1e}')


def sharded(folder: Path, processes: int) -> str:
    """MMEngine's FSDP trains and writes a complete checkpoint."""
    config = folder / 'sharded.py'
    config.write_text(SHARDED.format(base=str(CONFIG)))
    job = Job(folder, 'sharded', processes, config)
    job.run(epochs=2)
    weights = job.checkpoint()['state_dict']
    whole = Job(folder, 'whole', processes)
    whole.run(epochs=1)
    shapes = {key: value.shape for key, value in whole.checkpoint()['state_dict'].items()}
    if {key: value.shape for key, value in weights.items()} != shapes:
        raise AssertionError('the weights that FSDP saved have other names or shapes')
    if not all(value.isfinite().all() for value in weights.values() if value.is_floating_point()):
        raise AssertionError('the weights that FSDP saved are not finite')
    return f'two epochs, {len(weights)} entries saved'


PARTS: dict[str, Callable[[Path, int], str]] = dict(stop=stop, scaler=scaler, sharded=sharded)


def results(names: list[str], processes: int) -> Iterator[tuple[str, bool]]:
    """A line for each part, and whether it went well."""
    for name in names:
        if name != 'stop' and not torch.cuda.is_available():
            yield f'{name}: needs a GPU, and torch sees none here', False
            continue
        with tempfile.TemporaryDirectory() as folder:
            make_shapes(Path(folder, 'shapes'), train=4 * processes, val=4, size=64)
            try:
                yield f'{name}: {PARTS[name](Path(folder), processes)}', True
            except AssertionError as error:
                yield f'{name}: FAILED: {error}', False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--processes', type=int, default=max(1, torch.cuda.device_count()))
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    print(f'{args.processes} processes, {device}, torch {torch.__version__}', flush=True)
    good = True
    for line, well in results(args.parts, args.processes):
        print(line, flush=True)
        good &= well
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())

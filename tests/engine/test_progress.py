"""The progress display: a line now and then, with the time and validations left, and what a terminal shows beside it."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner, log_processor
from toy_training import ToyDataset, run_toy, toy_config

from ralamala_mm.engine import progress
from ralamala_mm.engine.progress import ConsoleFilter, ProgressHook, use_progress_line

GIB = 2**30


class Clock(Hook):
    """The time, which goes on when it is told to: three seconds in each training iteration."""

    def __init__(self):
        self.now = 1e9

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Sequence | None = None) -> None:
        self.now += 3.0


@DATASETS.register_module(force=True)
class SlowDataset(ToyDataset):
    """A quarter of a second for each sample."""

    clock: Clock

    def __getitem__(self, index: int) -> dict:
        self.clock.now += 0.25
        return super().__getitem__(index)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = SlowDataset.clock = Clock()
    monkeypatch.setattr(time, 'monotonic', lambda: clock.now)
    monkeypatch.setattr(time, 'time', lambda: clock.now)  # MMEngine's
    monkeypatch.setattr(progress, '_peak_memory', lambda: GIB)
    monkeypatch.setattr(progress.torch.cuda, 'is_available', lambda: False)
    return clock


def train(work_dir: Path, hooks: list[Hook], by_epoch: bool = True, **settings) -> None:
    """20 iterations of a second for the data and three for the rest; after the tenth and the last, a validation of two."""
    config = toy_config(work_dir, by_epoch, **settings)
    config.train_dataloader.dataset = dict(type='SlowDataset', length=20)
    config.val_dataloader.dataset = dict(type='SlowDataset', length=8)
    run_toy(config, hooks=hooks)


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_time_left(by_epoch: bool, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(tmp_path, [clock, ProgressHook(seconds=0)], by_epoch)
    lines = capsys.readouterr().out.splitlines()
    left = {int(line.split()[1].split('/')[0]): line.split(', ')[-1] for line in lines if line.startswith('  training')}
    assert re.fullmatch(r'  training 1/20, loss \d\S+, 1\.0 GiB, 0:01:16 left', lines[0])  # 19 iterations of 4 seconds
    assert re.fullmatch(r'  training 20/20, loss \d\S+, mean_acc -?\d\S+, 1\.0 GiB, 0:00:02 left', next(
        line for line in lines if '20/20' in line))
    assert (left[10], left[11], left[19]) == ('0:00:40 left', '0:00:38 left', '0:00:06 left')  # a validation was measured
    assert '  evaluating 2/4, 1.0 GiB, 0:00:01 left' in lines
    assert len(lines) == 20 + 2 * 4 + 2


@pytest.mark.parametrize(('done', 'settings', 'left'), [
    (0, dict(end=10), 10), (9, dict(end=10), 1), (0, dict(end=10, interval=4), 3), (4, dict(end=10, interval=4), 2),
    (8, dict(end=10, interval=4), 1), (0, dict(end=10, begin=6), 5), (2, dict(end=10, begin=6, interval=3), 3),
    (0, dict(end=10, interval=99), 1)])
def test_validations_left(done: int, settings: dict, left: int):
    end, interval, begin = settings['end'], settings.get('interval', 1), settings.get('begin', 1)
    runner = SimpleNamespace(train_loop=None, iter=done, max_iters=end, val_interval=interval, val_begin=begin)
    by_mmengines_condition = [i for i in range(done + 1, end + 1) if i >= begin and (i % interval == 0 or i == end)]
    assert progress._validations_left(runner) == len(by_mmengines_condition) == left


def test_without_a_timer(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(tmp_path, [clock, ProgressHook(seconds=10)], **{'default_hooks.timer': None})
    assert re.fullmatch(r'  training 1/20, loss \S+, 1.0 GiB', capsys.readouterr().out.splitlines()[0])


def test_now_and_then(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(tmp_path, [clock, ProgressHook(seconds=10)])
    assert 8 <= len(capsys.readouterr().out.splitlines()) <= 12


def test_one_line_on_a_terminal(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True)
    monkeypatch.setattr(progress.shutil, 'get_terminal_size', lambda: SimpleNamespace(columns=30))
    train(tmp_path, [clock, ProgressHook()])
    out = capsys.readouterr().out
    assert out.count('\r\033[K') == 20 + 2 * 4 + 2  # each iteration, those of the validations, and what they found
    assert out.count('\n') == 3  # the validations and the end
    assert all(len(line) < 30 for state in out.split('\r\033[K') for line in state.splitlines())


def test_the_most_memory(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """MMEngine's log lines reset the GPU's peak, here at each iteration; it was highest in the third."""
    peak = [0]

    class Allocator(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Sequence | None = None) -> None:
            peak[0] = max(peak[0], 5 * GIB if runner.iter == 2 else GIB)

    def reset(device: object = None) -> int:
        peak[0] = 0
        return 0

    monkeypatch.setattr(log_processor, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(log_processor, 'get_max_cuda_memory', reset)
    monkeypatch.setattr(progress, '_peak_memory', lambda: peak[0])
    each = {'default_hooks.logger': dict(type='LoggerHook', interval=1)}
    train(tmp_path, [clock, Allocator(), ProgressHook(seconds=0)], **each)
    assert peak[0] < 5 * GIB
    held = re.findall(r'training .* (\S+) GiB', capsys.readouterr().out)
    assert held == ['1.0'] * 2 + ['5.0'] * 18


@pytest.mark.parametrize(('metrics', 'shown'), [
    ({'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP': 0.2}, 'bbox_mAP 0.250, segm_mAP 0.200'),
    ({'pascal_voc/AP50': 0.5, 'pascal_voc/mAP': 0.25}, 'mAP 0.250'),
    ({'aAcc': 90.0, 'mIoU': 40.0, 'mAcc': 50.0}, 'mIoU 40.000'),
    ({'note': 'a text', 'aAcc': 90.0, 'mDice': 40.0, 'mAcc': 50.0}, 'aAcc 90.000, mDice 40.000'),
    ({}, 'no metrics')])
def test_metrics(metrics: dict, shown: str, capsys: pytest.CaptureFixture):
    ProgressHook().after_test_epoch(None, metrics)
    assert capsys.readouterr().out == f'  evaluation: {shown}\n'


@pytest.mark.parametrize('is_terminal', [True, False])
def test_where_it_is_used(is_terminal: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('sys.stdout.isatty', lambda: is_terminal)
    config = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    use_progress_line(config)
    assert [hook.type for hook in config.custom_hooks] == ['EMAHook', 'ProgressHook'][:1 + is_terminal]
    assert config.get('progress_line', False) == is_terminal


def test_news_alone(capsys: pytest.CaptureFixture):
    """What MMEngine logs for itself stays in the file; warnings, our notes and the libraries' tables are shown."""
    logger = logging.Logger('news')
    shown = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())
    handler.addFilter(ConsoleFilter())
    logger.addHandler(handler)
    of_mmengine = compile('logger.info("Epoch [1]"); print_log("weights", logger); logger.warning("careful")',
                          str(Path(mmengine.__file__).parent / 'runner' / 'some.py'), 'exec')
    exec(of_mmengine, dict(logger=logger, print_log=print_log))
    logger.info('ours')
    print_log('a table', logger)
    assert shown == ['careful', 'ours', 'a table']
    assert capsys.readouterr().out == '\r\033[K' * 3

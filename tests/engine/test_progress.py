"""The progress display: a line now and then, with the time and validations left, and what a terminal shows beside it."""

import logging
import re
import sys
import sysconfig
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner, log_processor
from toy_training import ToyDataset, run_toy, toy_config

from ralamala_mm.engine import Console, build_runner, progress
from ralamala_mm.engine.checkpointing import ValidationHook
from ralamala_mm.engine.interruption import StopHook
from ralamala_mm.engine.non_finite import NonFiniteHook
from ralamala_mm.engine.progress import ConsoleFilter, ProgressHook, libraries_to_log

GIB = 2**30


class Clock(Hook):
    """The time, which continues when it is told to: three seconds in each training iteration."""

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
    left = {int(line.split()[1].split('/')[0]): line.split(', ')[1] for line in lines if line.startswith('  training')}
    # 18 iterations of 4 seconds, and two validations of 8 images, each taken for half as long as one in training.
    assert re.fullmatch(r'  training 2/20, 0:01:20 left, loss \d\S+, 1\.0 GiB', lines[0])
    assert list(left) == list(range(2, 21, 2))
    # From the twelfth on a validation was measured.
    assert [left[i] for i in (10, 12, 18, 20)] == [f'0:00:{seconds:02} left' for seconds in (48, 34, 10, 2)]
    assert '  evaluating 2/4, 0:00:01 left, 1.0 GiB' in lines
    assert len([line for line in lines if re.match(r'  validation after iteration (10|20): mean_acc', line)]) == 2
    assert len(lines) == 10 + 2 * 4 + 2


def test_the_time_left_is_that_of_recent_iterations(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture,
                                                    monkeypatch: pytest.MonkeyPatch):
    """The first iteration takes a minute more, those from the twelfth on ten seconds; the validation to come counts as one."""
    class Slower(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Sequence | None = None) -> None:
            clock.now += {0: 60.0}.get(runner.iter, 10.0 if runner.iter >= 11 else 0.0)

    monkeypatch.setattr(progress, '_RECENT', 5)
    train(tmp_path, [clock, Slower(), ProgressHook(seconds=0)], **{'train_cfg.val_interval': 99})
    left = re.findall(r'training (\d+)/20, (\S+) left', capsys.readouterr().out)
    assert [left[i] for i in (0, 4, 7, 8)] == [('2', '0:01:16'), ('10', '0:00:44'), ('16', '0:01:10'), ('18', '0:00:42')]


@pytest.mark.parametrize(('done', 'settings', 'left'), [
    (0, dict(end=10), 10), (9, dict(end=10), 1), (0, dict(end=10, interval=4), 3), (4, dict(end=10, interval=4), 2),
    (8, dict(end=10, interval=4), 1), (0, dict(end=10, begin=6), 5), (2, dict(end=10, begin=6, interval=3), 3),
    (0, dict(end=10, interval=99), 1)])
def test_validations_left(done: int, settings: dict, left: int):
    end, interval, begin = settings['end'], settings.get('interval', 1), settings.get('begin', 1)
    runner = SimpleNamespace(train_loop=None, iter=done, max_iters=end, val_interval=interval, val_begin=begin)
    by_mmengines_condition = [i for i in range(done + 1, end + 1) if i >= begin and (i % interval == 0 or i == end)]
    assert progress._validations_left(runner) == len(by_mmengines_condition) == left


def test_now_and_then(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture):
    train(tmp_path, [clock, ProgressHook(seconds=10)])
    lines = [line.split(',')[0].split(':')[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ['training 2/20', 'training 6/20', 'training 10/20', 'validation after iteration 10', 'training 14/20',
                     'training 18/20', 'validation after iteration 20']


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
    assert held == ['1.0'] + ['5.0'] * 9


@pytest.mark.parametrize(('metrics', 'shown'), [
    ({'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP': 0.2}, 'box AP 0.250, mask AP 0.200'),
    ({'pascal_voc/AP50': 0.5, 'pascal_voc/mAP': 0.25}, 'mAP 0.250'),
    ({'aAcc': 90.0, 'mIoU': 40.0, 'mAcc': 50.0}, 'mIoU 40.000'),
    ({'note': 'a text', 'aAcc': 90.0, 'mDice': 40.0, 'mAcc': 50.0}, 'aAcc 90.000, mDice 40.000'),
    ({}, 'no metrics')])
def test_metrics(metrics: dict, shown: str, capsys: pytest.CaptureFixture):
    ProgressHook().after_test_epoch(None, metrics)
    assert capsys.readouterr().out == f'  evaluation: {shown}\n'


@pytest.mark.parametrize('is_terminal', [True, False])
def test_where_it_is_used(is_terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr('sys.stdout.isatty', lambda: is_terminal)
    runner = build_runner(toy_config(tmp_path), Console.default())
    assert any(isinstance(hook, ProgressHook) for hook in runner.hooks) == is_terminal
    assert 'ProgressHook' not in runner.cfg.pretty_text  # a config that is dumped says nothing of where it was run


def test_a_config_that_an_evaluation_dumped_trains_as_any_other(tmp_path: Path):
    evaluation = build_runner(toy_config(tmp_path), Console.QUIET, evaluates=True)
    (dumped,) = tmp_path.glob('*/config.py')
    config = Config.fromfile(dumped)
    config.merge_from_dict(dict(experiment_name='after', evaluates_only=True))  # as older ones dumped it
    training = build_runner(config)
    watching = {StopHook, ValidationHook, NonFiniteHook}
    assert watching & set(map(type, evaluation.hooks)) == set()
    assert watching <= set(map(type, training.hooks))


def log(filtered: logging.Filter, commands: dict[str, str]) -> list[str]:
    """What is shown of what packages log with some commands, each in its own name."""
    logger, shown = logging.Logger('news'), []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())
    handler.addFilter(filtered)
    logger.addHandler(handler)
    for package, command in commands.items():
        exec(command, dict(__name__=package, logger=logger, print_log=print_log))
    return shown


OF_MMENGINE = 'logger.info("Epoch [1]"); print_log("weights", logger); logger.warning("careful"); logger.error("wrong")'


@pytest.mark.parametrize('tables', [True, False])
def test_news_alone(tables: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """What libraries log for themselves stays in the file, but for an evaluation's tables; warnings and our notes are shown."""
    monkeypatch.setattr('sys.stdout.isatty', lambda: True)
    console = ConsoleFilter(libraries=['mmengine']) if tables else ConsoleFilter()
    shown = log(console, {'mmengine.runner.some': OF_MMENGINE, 'mmdet.evaluation': 'print_log("a table", logger)',
                          'ralamala_mm.some': 'logger.info("ours")'})
    assert shown == ['careful', 'wrong', *(['a table'] if tables else []), 'ours']
    assert capsys.readouterr().out == '\r\033[K' * len(shown)


def test_a_quiet_console(capsys: pytest.CaptureFixture):
    """Errors alone, and warnings of our own."""
    shown = log(ConsoleFilter(theirs=logging.ERROR, ours=logging.WARNING), {
        'mmengine.runner.some': OF_MMENGINE, 'mmdet.evaluation': 'print_log("a table", logger)',
        'ralamala_mm.some': 'logger.info("ours"); logger.warning("our warning")'})
    assert shown == ['wrong', 'our warning']
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('prints', [True, False])
def test_what_libraries_print_and_warn_of_is_logged(prints: bool, tmp_path: Path, capsys: pytest.CaptureFixture):
    logger = logging.Logger('run')
    console, file = logging.StreamHandler(sys.stdout), logging.FileHandler(tmp_path / 'run.log')
    console.addFilter(ConsoleFilter(theirs=logging.ERROR, ours=logging.WARNING))
    logger.handlers = [console, file]
    shown = warnings.showwarning
    warn = 'print("from {0}"); print("a", 1, end=" "); print("b\\nc"); warnings.warn("{0} warns")'
    with pytest.raises(ZeroDivisionError), libraries_to_log(logger, prints):  # noqa: PT012
        for package in ('pycocotools.coco', 'my_package', 'ralamala_mm.some'):
            exec(compile(warn.format(package), f'/home/{package}.py', 'exec'), dict(__name__=package, warnings=warnings))
        exec(compile('warnings.warn("numpy warns")', f'{sysconfig.get_path("purelib")}/numpy/a.py', 'exec'),
             dict(__name__='numpy', warnings=warnings))
        raise ZeroDivisionError
    assert warnings.showwarning is shown
    out, logged = capsys.readouterr().out, (tmp_path / 'run.log').read_text()
    for package in ('pycocotools.coco', 'my_package', 'ralamala_mm.some'):
        is_library = package.startswith('pycocotools')
        assert (f'from {package}\na 1 b\nc\n' in logged) == (prints and is_library)
        assert (f'from {package}\na 1 b\nc\n' in out) == (not prints or not is_library)
        assert f'/home/{package}.py:1: UserWarning: {package} warns' in logged
        assert (f'{package} warns' in out) != is_library
    assert 'numpy warns' in logged
    assert 'numpy warns' not in out

"""The progress display: a line now and then, with the time left from the pace of late, and what a terminal shows beside it."""

import logging
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
from mmengine.config import Config
from mmengine.logging import print_log

from ralamala_mm.engine import progress
from ralamala_mm.engine.progress import NewsFilter, ProgressHook, use_progress_line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which goes on when it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(progress, '_memory', lambda: '1.0 GiB')
    return now


def train(hook: ProgressHook, clock: list[float], iterations: int = 10) -> None:
    """Four seconds an iteration, with a validation after the fifth, which does not count."""
    for iteration in range(iterations):
        runner = SimpleNamespace(iter=iteration, max_iters=iterations)
        hook.before_train_iter(runner, iteration)
        clock[0] += 4.0
        hook.after_train_iter(runner, iteration, outputs={'loss': 2.5})
        if iteration == 4:
            clock[0] += 100.0
            hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5})


def test_time_left(clock: list[float], capsys: pytest.CaptureFixture):
    train(ProgressHook(seconds=10), clock)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '  training 1/10, loss 2.500, 1.0 GiB, 0:00:36 left'
    assert lines[-1] == '  training 10/10, loss 2.500, bbox_mAP 0.250, 1.0 GiB, 0:00:00 left'
    assert '  validation after iteration 4: bbox_mAP 0.250' in lines
    assert len(lines) <= 6


def test_one_line_on_a_terminal(clock: list[float], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True)
    monkeypatch.setattr(progress.shutil, 'get_terminal_size', lambda: SimpleNamespace(columns=30))
    train(ProgressHook(), clock)
    out = capsys.readouterr().out
    assert out.count('\r\033[K') == 11  # each iteration and the validation
    assert out.count('\n') == 2  # the validation and the end
    assert all(len(line) < 30 for state in out.split('\r\033[K') for line in state.splitlines())


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
    handler.addFilter(NewsFilter())
    logger.addHandler(handler)
    of_mmengine = compile('logger.info("Epoch [1]"); print_log("weights", logger); logger.warning("careful")',
                          str(Path(mmengine.__file__).parent / 'runner' / 'some.py'), 'exec')
    exec(of_mmengine, dict(logger=logger, print_log=print_log))
    logger.info('ours')
    print_log('a table', logger)
    assert shown == ['careful', 'ours', 'a table']
    assert capsys.readouterr().out == '\r\033[K' * 3

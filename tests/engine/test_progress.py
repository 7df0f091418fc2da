"""The progress display: a line now and then, with the time left from the pace of late."""

from types import SimpleNamespace

import pytest

from ralamala_mm.engine import progress
from ralamala_mm.engine.progress import ProgressHook


def test_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    hook = ProgressHook(seconds=10)
    for iteration in range(10):
        runner = SimpleNamespace(iter=iteration, max_iters=10)
        hook.before_train_iter(runner, iteration)
        now[0] += 4.0
        hook.after_train_iter(runner, iteration, outputs={'loss': 2.5})
        now[0] += 100.0 if iteration == 4 else 0.0  # a validation, which does not count
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '  training 3/10, loss 2.500, 0:00:28 left'
    assert lines[-1] == '  training 10/10, loss 2.500, 0:00:00 left'
    assert len(lines) <= 6

"""A schedule made for COCO or ADE20K is told when the training is shorter."""

from pathlib import Path

import pytest

from ralamala_mm.engine import load_config
from ralamala_mm.engine.config import schedule_notes

ROOT = Path(__file__).resolve().parents[2]


def test_schedules_that_are_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    detector, segmentor = load_config('configs/maskrcnn_ravlt_t.py'), load_config('configs/upernet_ravlt_t.py')
    assert list(schedule_notes(detector.param_scheduler, 87960)) == []
    assert list(schedule_notes(segmentor.param_scheduler, 160_000)) == []
    (note,) = schedule_notes(detector.param_scheduler, 48)
    assert 'takes 48 iterations, and the learning rate still warms up until iteration 500' in note
    (note,) = schedule_notes(segmentor.param_scheduler, 2000)
    assert 'still falls until iteration 160000: --cfg-options param_scheduler.1.end=' in note
    assert len(list(schedule_notes(segmentor.param_scheduler, 1000))) == 2
    assert list(schedule_notes(None, 10)) == []

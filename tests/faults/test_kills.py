"""A short version of kill_and_resume.py: trainings killed and resumed come out as if they had been left alone."""

from pathlib import Path

import pytest
from kill_and_resume import prove

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(('config', 'kills'), [('tiny_detector.py', 2), ('tiny_segmentor.py', 2)])
def test_killed_and_resumed(config: str, kills: int, tmp_path: Path):
    lines = list(prove(config, kills, tmp_path))
    assert sum(line.startswith('kill ') for line in lines) == kills
    assert 'are the same to the last bit' in lines[-1]

"""The demo's console without a terminal, and its sheet of predictions, from a short training."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PALETTE = [(220, 60, 60), (60, 120, 220), (60, 190, 90), (230, 180, 40)]
# `make demo` with a few images; what they cannot show are the results.
DEMO = '''
import argparse, sys
sys.path.insert(0, 'tools')
import demo
from ralamala_mm.engine import run

demo.TRAIN_IMAGES, demo.VAL_IMAGES = 16, 4
parser = argparse.ArgumentParser()
parser.set_defaults(
    config=demo.CONFIG, work_dir=sys.argv.pop(), data=sys.argv.pop(), launcher='none', resume=None, traceback=False,
    cfg_options={'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 1, 'model.test_cfg.rcnn.score_thr': 0.0})
run(parser, demo.main)
'''

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def shown(call: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, Path]:
    folder = tmp_path_factory.mktemp('demo')
    return call('python', '-c', DEMO, folder / 'shapes', folder / 'work'), folder / 'work'


def test_calm_lines(shown: tuple[subprocess.CompletedProcess, Path]):
    result, work_dir = shown
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr == ''
    lines = result.stdout.splitlines()
    assert len(lines) <= 22
    assert [line[:4] for line in lines if re.match(r'\d/3 ', line)] == ['1/3 ', '2/3 ', '3/3 ']
    validations = [line for line in lines if line.startswith('  validation')]
    assert len(validations) == 3
    assert all(re.fullmatch(r'  validation after iteration \d+: box AP [\d.]+, mask AP [\d.]+', line) for line in validations)
    training = [line for line in lines if line.startswith('  training')]
    assert 1 <= len(training) <= 10
    assert all(re.fullmatch(r'  training \d+/12, \d:\d\d:\d\d left, loss [\d.]+, [\d.]+ GiB', line) for line in training)
    assert [line for line in lines if re.match(r'  (boxes|masks)  AP ', line)] == lines[-8:-6]
    log = '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))
    for text in ('Average Precision  (AP) @[', 'loading annotations into memory...', '"FileClient" will be deprecated'):
        assert text in log
        assert text not in result.stdout


def test_an_error_is_shown(call: Callable, tmp_path: Path):
    (tmp_path / 'work').write_text('')
    result = call('python', '-c', DEMO, tmp_path / 'shapes', tmp_path / 'work')
    assert result.returncode != 0
    assert result.stderr.startswith('error: ')


def test_the_sheet_of_predictions(shown: tuple[subprocess.CompletedProcess, Path]):
    """Pairs in rows of three, with the classes' colors on the side of the annotations."""
    sheet = cv2.imread(str(shown[1] / 'predictions.png'))[..., ::-1]
    side, gap, pair_gap = 384, 8, 32
    assert sheet.shape[1] == 3 * (2 * side + gap) + 2 * pair_gap
    titles = sheet.shape[0] // 2 - side - pair_gap // 2  # two rows
    annotated = [sheet[titles:titles + side, x:x + side] for x in range(0, sheet.shape[1], 2 * side + gap + pair_gap)]
    assert len(annotated) == 3
    assert all(any((image == color).all(axis=-1).sum() > 100 for color in PALETTE) for image in annotated)
    assert (sheet[:, side:side + gap] == 255).all()
    assert (np.asarray(sheet[:titles]) == 255).mean() > 0.7

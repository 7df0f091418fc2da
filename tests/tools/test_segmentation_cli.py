"""The command lines on segmentation: trains, resumes, evaluates and writes as MMSegmentation's do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CONFIG = 'configs/demo/semanticfpn_ravlt_t_shapes.py'
SMALL = ['--cfg-options', 'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'default_hooks.logger.interval=1', 'train_cfg.val_interval=2',
         'default_hooks.checkpoint.interval=2']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(call: Callable, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of two iterations of training."""
    work_dir = tmp_path_factory.mktemp('work')
    result = call('python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', work_dir, *SMALL,
                  'train_cfg.max_iters=2')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'folders of images and masks' in result.stdout
    assert 'RAVLT starts from scratch' in result.stdout
    assert 'iterations, and the learning rate still falls until iteration 1000' in result.stdout
    return work_dir


def scalars(work_dir: Path) -> list[dict]:
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.parent.parent.name)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def test_training_and_resuming_by_iterations(trained: Path, call: Callable, shapes_root: Path):
    assert (trained / 'iter_2.pth').exists()
    assert any('mIoU' in entry for entry in scalars(trained))
    result = call('python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', trained, '--resume', '--no-validate',
                  *SMALL, 'train_cfg.max_iters=4')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in result.stdout
    assert (trained / 'iter_4.pth').exists()
    assert [entry['iter'] for entry in scalars(trained) if 'loss' in entry] == [3, 4]


@pytest.mark.parametrize('tta', [False, True])
def test_evaluation(trained: Path, call: Callable, shapes_root: Path, tmp_path: Path, tta: bool):
    options = ['--tta'] if tta else ['--show-dir', tmp_path / 'drawn']
    result = call('python', 'tools/test.py', CONFIG, trained / 'iter_2.pth', '--data', shapes_root, '--work-dir', tmp_path / 'w',
                  '--out', tmp_path / 'masks', *options, *SMALL)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r'mIoU: [\d.]+', result.stdout)
    masks = sorted((tmp_path / 'masks').glob('*.png'))
    assert len(masks) == 4
    assert set(np.unique(np.asarray(Image.open(masks[0])))) <= set(range(5))
    if not tta:
        assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 4
    # The evaluation's config lies beside its log; in a training's folder it would take the place of that one's.
    assert not list((tmp_path / 'w').glob('*.py'))
    assert len(list((tmp_path / 'w').glob('*/*_shapes.py'))) == 1

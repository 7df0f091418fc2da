"""`--data` on the command lines: the report is printed, and the run uses what was found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# A detector on COCO as published, made small enough for a test; the heads keep their sizes.
CONFIG = 'configs/maskrcnn_ravlt_t.py'
SMALL = ['--cfg-options', 'model.backbone.pretrained=None', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1',
         'model.train_cfg.rpn_proposal.max_per_img=50', 'model.train_cfg.rcnn.sampler.num=16',
         'model.test_cfg.rcnn.max_per_img=5',
         'train_dataloader.dataset.pipeline.2.scale=(128,128)', 'val_dataloader.dataset.pipeline.1.scale=(128,128)',
         'test_dataloader.dataset.pipeline.1.scale=(128,128)']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def own_data(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images as CVAT exports them: one part, and other class names than COCO's."""
    root = tmp_path_factory.mktemp('own')
    shutil.copytree(shapes_root / 'train', root / 'images' / 'default')
    (root / 'annotations').mkdir()
    content = json.loads((shapes_root / 'annotations/instances_train.json').read_text())
    content['images'] = content['images'][:6]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] < 6]
    (root / 'annotations/instances_default.json').write_text(json.dumps(content))
    return root


def test_training_and_testing_on_own_data(call: Callable, own_data: Path, tmp_path: Path):
    train = call('python', 'tools/train.py', CONFIG, '--data', own_data, '--work-dir', tmp_path, *SMALL)
    assert train.returncode == 0, train.stderr[-3000:]
    assert 'COCO format as CVAT exports it' in train.stdout
    assert 'coco/segm_mAP' in train.stdout
    weights = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert weights['state_dict']['roi_head.bbox_head.fc_cls.bias'].shape == (5,)
    assert tuple(weights['meta']['dataset_meta']['classes']) == ('circle', 'square', 'triangle', 'star')
    test = call('python', 'tools/test.py', CONFIG, tmp_path / 'epoch_1.pth', '--data', own_data, '--work-dir', tmp_path, *SMALL)
    assert test.returncode == 0, test.stderr[-3000:]
    assert 'bbox_mAP_copypaste' in test.stdout


def test_data_that_cannot_be_used(call: Callable, own_data: Path, tmp_path: Path):
    root = Path(shutil.copytree(own_data, tmp_path / 'own'))
    path = root / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    content['images'][1]['id'] = content['images'][0]['id']
    path.write_text(json.dumps(content))
    result = call('python', 'tools/train.py', CONFIG, '--data', root, '--work-dir', tmp_path / 'w', *SMALL)
    assert result.returncode == 1
    assert 'ERROR     all: image ids used twice: 1 (1)' in result.stdout
    assert 'error: the data in' in result.stderr
    assert 'Traceback' not in result.stderr
    assert [path.name for path in (tmp_path / 'w').iterdir()] == ['.training.lock']


def test_without_a_network(call: Callable, shapes_root: Path, tmp_path: Path):
    """The published configs start from released weights; a machine without a network says what to do."""
    result = call('python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', tmp_path / 'w', '--cfg-options',
                  'model.backbone.pretrained=http://127.0.0.1:9/RAVLT_T.pth', TORCH_HOME=str(tmp_path))
    assert result.returncode == 1
    assert '--cfg-options model.backbone.pretrained=None trains from scratch' in result.stderr
    assert 'Traceback' not in result.stderr

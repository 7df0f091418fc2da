"""report.py as a user calls it, on a training of a few iterations; and the same of a segmentor without one."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ralamala_mm.analysis.report import make_report
from ralamala_mm.datasets import set_data_root
from ralamala_mm.engine import build_model, load_config

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = 'tests/faults/configs/tiny_detector.py'
SEGMENTOR = 'tests/faults/configs/tiny_segmentor.py'
SHORT = ['train_dataloader.num_workers=0', 'default_hooks.logger.interval=1', 'train_cfg.max_epochs=1',
         'train_cfg.val_interval=1']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def detector(call: Callable, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of an epoch of training."""
    folder = tmp_path_factory.mktemp('runs') / 'detector'
    result = call('python', 'tools/train.py', DETECTOR, '--data', shapes_root, '--work-dir', folder, '--cfg-options', *SHORT)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def segmentor(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with the config and random weights, as if nothing had been logged."""
    folder = tmp_path_factory.mktemp('runs') / 'segmentor'
    folder.mkdir()
    config = load_config(str(ROOT / SEGMENTOR))
    set_data_root(config, str(shapes_root))
    config.dump(folder / 'tiny_segmentor.py')
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(config).state_dict()), folder / 'iter_1.pth')
    return folder


def shown(html: str, name: str) -> float:
    """The number in the first row of a name."""
    return float(re.search(rf'>{name}</th><td data-order="([-\d.]+)"', html)[1])


def test_numbers_are_those_of_the_training(call: Callable, detector: Path, tmp_path: Path):
    page = tmp_path / 'page.html'
    result = call('python', 'tools/analysis_tools/report.py', detector, '--out', page, '--base', DETECTOR)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'detector: predicting 4 of 4 validation images' in result.stdout
    assert f'Open {page} in a browser' in result.stdout
    logged = json.loads(next(detector.glob('*/vis_data/scalars.json')).read_text().splitlines()[-1])
    html = page.read_text()
    names = {'box AP': 'bbox_mAP', 'box AP50': 'bbox_mAP_50', 'box AP medium': 'bbox_mAP_m', 'mask AP': 'segm_mAP'}
    for name, key in names.items():  # the log has AP to a thousandth
        assert shown(html, name) == pytest.approx(100 * logged[f'coco/{key}'], abs=0.051)
    assert html.count('<svg') >= 8
    assert 'Worst images' in html
    assert 'compared with the bases of tests/faults/configs/tiny_detector.py' in html


def test_a_segmentor_has_the_numbers_of_mmsegmentation(segmentor: Path, shapes_root: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch):
    from mmseg.evaluation import IoUMetric

    from ralamala_mm.analysis import report
    from ralamala_mm.analysis.report.segmentation import read_labels

    kept = []
    monkeypatch.setattr(report, 'evaluate_segmentations', lambda found, evaluate=report.evaluate_segmentations: (
        kept.append(found), evaluate(found))[1])
    notices = make_report([segmentor], tmp_path / 'page.html', images=100, base=ROOT / SEGMENTOR)
    assert notices == ['segmentor: no logs of a training (*/vis_data/scalars.json), so there are no curves.']
    images = kept[0].images
    assert len(images) == 4
    areas = [IoUMetric.intersect_and_union(*(torch.from_numpy(read_labels(png)) for png in (one.predicted, one.truth)), 5, 255)
             for one in images]
    metrics = IoUMetric.total_area_to_metrics(*(sum(area) for area in zip(*areas, strict=True)), ['mIoU'])
    html = (tmp_path / 'page.html').read_text()
    assert shown(html, 'mIoU') == pytest.approx(100 * np.nanmean(metrics['IoU']), abs=1e-3)
    assert shown(html, 'mAcc') == pytest.approx(100 * np.nanmean(metrics['Acc']), abs=1e-3)
    assert 0 < shown(html, 'mIoU') < 60


def test_two_runs_of_different_tasks_where_the_data_of_one_is_gone(detector: Path, segmentor: Path, shapes_root: Path,
                                                                   tmp_path: Path):
    moved = Path(shutil.copytree(detector, tmp_path / 'moved'))
    for path in (*moved.glob('*.py'), *moved.glob('*/vis_data/config.py')):
        path.write_text(path.read_text().replace(str(shapes_root), '/nowhere/shapes'))
    notices = make_report([segmentor, moved], tmp_path / 'page.html', images=2)
    assert any(re.match("moved: nothing could be predicted, so that only curves are shown: the data set's folder /nowhere/shapes "
                        'does not exist: --data DIR', notice) for notice in notices)
    html = (tmp_path / 'page.html').read_text()
    assert 'What differs in the configs' in html
    assert 'iter_1.pth on 2 of 4 images' in html


def test_objects_without_a_mask_are_told(detector: Path, shapes_root: Path, tmp_path: Path):
    data = Path(shutil.copytree(shapes_root, tmp_path / 'data'))
    path = data / 'annotations/instances_val.json'
    content = json.loads(path.read_text())
    del content['annotations'][0]['segmentation']
    path.write_text(json.dumps(content))
    name = next(one['file_name'] for one in content['images'] if one['id'] == content['annotations'][0]['image_id'])
    moved = Path(shutil.copytree(detector, tmp_path / 'moved'))
    for config in (*moved.glob('*.py'), *moved.glob('*/vis_data/config.py')):
        # A pipeline that loads masks refuses such an annotation by itself.
        config.write_text(config.read_text().replace(str(shapes_root), str(data)).replace('with_mask=True', 'with_mask=False'))
    notices = make_report([moved], tmp_path / 'page.html', images=100, base=ROOT / DETECTOR)
    assert notices == ['moved: no numbers of masks, as annotations of 1 of 4 images have no segmentation '
                       f'({Path(name).name}).']
    html = (tmp_path / 'page.html').read_text()
    assert notices[0] in html
    assert 'box AP' in html
    assert 'mask AP50' not in html


@pytest.mark.parametrize(('options', 'says'), [
    ([], 'is no work directory of a training: it holds no config'), (['--base', 'Makefile'], '--base Makefile: give a Python')])
def test_a_mistake_ends_in_a_sentence(call: Callable, tmp_path: Path, options: list[str], says: str):
    result = call('python', 'tools/analysis_tools/report.py', tmp_path, *options)
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert says in result.stderr
    assert 'Traceback' not in result.stderr

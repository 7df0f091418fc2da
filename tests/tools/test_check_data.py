"""check_data.py: what is wrong with a config's data is found before training, by file and kind."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from ralamala_mm.datasets import LoadCheckedImage, use_checked_loading
from ralamala_mm.datasets.validation import WorkerKilledError, check_config_data, scan
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = 'configs/demo/maskrcnn_ravlt_t_shapes.py'
SEGMENTOR = 'configs/demo/semanticfpn_ravlt_t_shapes.py'


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_root, tmp_path / 'data'))


def prepared(name: str, root: Path, tmp_path: Path) -> Config:
    """A config that names the folder itself, without a look at it."""
    config = load_config(str(ROOT / name))
    config.work_dir = str(tmp_path / 'work')
    for mode in ('train', 'val', 'test'):
        config[f'{mode}_dataloader'].dataset.data_root = str(root)
    use_checked_loading(config)
    return config


def found(name: str, root: Path, tmp_path: Path) -> set[tuple[str, str, str]]:
    report = check_config_data(prepared(name, root, tmp_path), ['train', 'val', 'test'], 2, None)
    return {(fault.split, Path(fault.file).name, fault.kind) for fault in report.faults}


def change(root: Path, split: str, edit: Callable[[dict], object]) -> None:
    path = root / f'annotations/instances_{split}.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTOR])
def test_data_without_faults(name: str, root: Path, tmp_path: Path):
    report = check_config_data(prepared(name, root, tmp_path), ['train', 'val', 'test'], 2, None)
    assert not report.faults
    assert report.complete
    assert report.images == dict(train=12, val=4)  # test reads what val does
    assert 'train: 12 images inspected, no faults' in str(report)


def test_every_bad_file_of_a_detector_is_found(root: Path, tmp_path: Path):
    content = (root / 'train/00001.png').read_bytes()
    (root / 'train/00001.png').write_bytes(content[:-200])
    (root / 'train/00002.png').unlink()
    (root / 'train/00003.png').write_bytes(b'')
    Image.new('RGB', (60, 50)).save(root / 'train/00004.png')
    (root / 'val/00000.png').write_bytes(b'<html>')
    change(root, 'train', lambda c: [a.update(segmentation=[[1, 2, float('nan'), 4, 5, 6]]) for a in c['annotations']
                                     if a['image_id'] == 6])
    change(root, 'val', lambda c: [a.pop('area') for a in c['annotations'][:1]])
    faults = found(DETECTOR, root, tmp_path)
    assert faults >= {('train', '00002.png', 'missing'), ('train', '00003.png', 'empty'), ('train', '00004.png', 'other size'),
                      ('train', '00005.png', 'annotation'), ('val', 'instances_val.json', 'annotations')}
    bad = {name for split, name, _ in faults if split == 'train'}
    assert bad == {'instances_train.json', *(f'{i:05d}.png' for i in range(1, 6))}


def test_every_bad_file_of_a_segmentor_is_found(root: Path, tmp_path: Path):
    Image.new('L', (60, 50)).save(root / 'semantic/train/00000.png')
    Image.new('L', (128, 128), 77).save(root / 'semantic/train/00001.png')
    Image.new('RGB', (128, 128)).save(root / 'semantic/train/00002.png')
    (root / 'semantic/val/00000.png').unlink()
    (root / 'semantic/val/00001.png').write_bytes(b'x')
    (root / 'val/00001.png').write_bytes(b'x')  # beside its mask
    assert found(SEGMENTOR, root, tmp_path) == {
        ('train', '00000.png', 'mask of another size'), ('train', '00001.png', 'values outside the classes'),
        ('train', '00002.png', 'coloured mask'), ('val', '00000.png', 'missing mask'), ('val', '00001.png', 'unreadable mask'),
        ('val', '00001.png', 'not an image')}


def test_categories_in_another_order_than_the_config_s(root: Path, tmp_path: Path):
    change(root, 'val', lambda c: c['categories'].reverse())
    assert found(DETECTOR, root, tmp_path) == {('val', 'instances_val.json', 'annotations')}


def test_what_is_not_mended_is_not_called_mended(root: Path, tmp_path: Path):
    """What evaluation would count wrongly, or stop at, is a fault; of the rest, the report says what --data would do."""

    def defects(content: dict) -> None:
        content['annotations'][0]['bbox'][2] = 0
        content['annotations'][1]['bbox'] = [-900.0, 10.0, 50.0, 50.0]
        content['annotations'][2]['segmentation'] = [[1, 2], [10, 10, 60, 10, 60, 60]]
        content['annotations'][3]['segmentation'] = [[10, 10, 60, 10, 60, 60], [1, 2]]
        content['images'].append(dict(content['images'][0], id=77, file_name='nowhere.png'))

    for split in ('train', 'val'):
        change(root, split, defects)
    report = check_config_data(prepared(DETECTOR, root, tmp_path), ['train', 'val'], 1, None)
    faults = {(fault.split, fault.text.partition(': ')[0]): fault.text for fault in report.faults if fault.kind == 'annotations'}
    assert set(faults) == {('val', 'boxes without area'), ('val', 'boxes outside the image'),
                           ('val', 'segmentations with parts of an odd count or fewer than three points')}
    assert all('; with --data DIR: ' in text for text in faults.values())
    read = {(fault.split, fault.kind) for fault in report.faults if fault.kind != 'annotations'}
    assert read == {('val', 'annotation'), ('val', 'missing')}  # training leaves images without instances out
    notes = {text for split, text in report.notes if split == 'train'}
    assert 'boxes without area: 1 (annotation 1 of 00000.png); training leaves them out' in notes
    assert 'images without a file: 1 (nowhere.png); with --data DIR: left out with their annotations' in notes
    assert not any(text.endswith('; left out') for _, text in report.notes)


def test_names_of_a_segmentor_s_list_that_lead_to_one_file(root: Path, tmp_path: Path):
    (root / 'list.txt').write_text('cam1\\00000\ncam2\\00000\n00001\n')
    config = prepared(SEGMENTOR, root, tmp_path)
    config.train_dataloader.dataset.ann_file = 'list.txt'
    report = check_config_data(config, ['train'], 1, None)
    assert [(fault.file, fault.kind) for fault in report.faults] == [(f'{root}/list.txt', 'names')]
    assert 'list.txt has different names that lead to one file, such as ' in report.faults[0].text


def test_a_broken_annotation_file_does_not_hide_the_other_split(root: Path, tmp_path: Path):
    (root / 'annotations/instances_train.json').write_text('{"images": [')
    (root / 'val/00002.png').write_bytes(b'')
    assert found(DETECTOR, root, tmp_path) == {('train', 'instances_train.json', 'annotations'), ('val', '00002.png', 'empty')}


def killing(self, results: dict) -> dict:
    if results['img_path'].endswith('00006.png'):
        time.sleep(0.5)  # until the others have nothing left to do
        os.kill(os.getpid(), signal.SIGKILL)
    return results


def test_a_killed_worker_is_told_with_its_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the system does when memory runs out."""
    monkeypatch.setattr(LoadCheckedImage, 'transform', killing)
    config = prepared(SEGMENTOR, root, tmp_path)
    report = check_config_data(config, ['train'], 1, None)
    assert not report.complete
    assert [(Path(fault.file).name, fault.kind) for fault in report.faults] == [('00006.png', 'worker killed')]
    assert 'as the system does when memory runs out' in str(report)
    import mmseg.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(dict(config.train_dataloader.dataset, pipeline=[]))
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)  # which workers inherit and must not obey
    try:
        with pytest.raises(WorkerKilledError, match='00006'):
            scan('train', dataset, [dict(type='ralamala_mm.datasets.LoadCheckedImage')], 2, print)
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_report_that_cannot_be_written(root: Path, tmp_path: Path):
    report = check_config_data(prepared(SEGMENTOR, root, tmp_path), ['val'], 1, None)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='the report cannot be written to'):
        report.write(tmp_path / 'file/report.json')


@pytest.mark.slow
def test_the_command(call: Callable, root: Path, tmp_path: Path):
    (root / 'train/00003.png').write_bytes((root / 'train/00003.png').read_bytes()[:900])
    command = ['python', 'tools/check_data.py', DETECTOR, '--data', root, '--work-dir', tmp_path / 'work', '--workers', 2]
    result = call(*command)
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if line.startswith('error: ')] == [
        f'error: 1 file of {root} cannot be used, see {tmp_path}/work/data_report.json.']
    report = json.loads((tmp_path / 'work/data_report.json').read_text())
    assert [(Path(fault['file']).name, fault['kind']) for fault in report['faults']] == [('00003.png', 'damaged')]
    assert report['images'] == dict(train=12, val=4)
    assert result.stdout.splitlines()[-1] == f'Open {tmp_path}/work/data_report.html in a browser'
    assert '1 kind of defect keeps this data from being used' in (tmp_path / 'work/data_report.html').read_text()
    result = call(*command, '--splits', 'val', '--out', tmp_path / 'val.json')
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / 'val.json').read_text())['faults'] == []
    assert 'This data can be evaluated on' in (tmp_path / 'val.html').read_text()
    assert not list(tmp_path.rglob('.*'))  # nothing half-written
    result = call(*command, '--out', tmp_path / 'page.html')
    assert result.returncode == 1
    assert 'give the JSON file' in result.stderr

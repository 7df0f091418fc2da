"""The built-in data laid out as people and labelling tools leave theirs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from ralamala_mm.engine import load_config

ROOT = Path(__file__).resolve().parents[3]
COLORS = ((0, 0, 0), (220, 60, 60), (60, 120, 220), (60, 190, 90), (230, 180, 40))
NAMES = ('background', 'circle', 'square', 'triangle', 'star')


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """A config by its name, with a work directory of its own."""

    def load(name: str) -> Config:
        monkeypatch.chdir(ROOT)
        loaded = load_config(f'configs/{name}.py')
        loaded.work_dir = str(tmp_path / 'work')
        return loaded

    return load


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / f'annotations/instances_{split}.json').read_text())


@pytest.fixture
def roboflow(shapes_root: Path, tmp_path: Path) -> Path:
    """train/_annotations.coco.json beside the images, valid/, and a parent category with id 0."""
    root = tmp_path / 'roboflow'
    for split, folder in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(shapes_root / split, root / folder)
        content = annotations(shapes_root, split)
        content['categories'] = [dict(id=0, name='shapes', supercategory='none'),
                                 *(dict(category, supercategory='shapes') for category in content['categories'])]
        (root / folder / '_annotations.coco.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def cvat(shapes_root: Path, tmp_path: Path) -> Path:
    """annotations/instances_default.json and images/default/, without a validation part."""
    root = tmp_path / 'cvat'
    shutil.copytree(shapes_root / 'train', root / 'images' / 'default')
    (root / 'annotations').mkdir()
    shutil.copy(shapes_root / 'annotations/instances_train.json', root / 'annotations/instances_default.json')
    return root


@pytest.fixture
def reordered(shapes_root: Path, tmp_path: Path) -> Path:
    """annotations/train.json, images/train/, without `area` and `iscrowd`, the categories of val in reverse order."""
    root = tmp_path / 'reordered'
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        shutil.copytree(shapes_root / split, root / 'images' / split)
        content = annotations(shapes_root, split)
        for annotation in content['annotations']:
            del annotation['area'], annotation['iscrowd']
        if split == 'val':
            content['categories'].reverse()
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def coco(shapes_root: Path, tmp_path: Path) -> Path:
    """A copy in COCO's own layout, to plant defects in."""
    return Path(shutil.copytree(shapes_root, tmp_path / 'coco'))


@pytest.fixture
def ade(shapes_root: Path, tmp_path: Path) -> Path:
    """images/{training,validation} and annotations/{training,validation}, as ADE20K has it, with another's images."""
    root = tmp_path / 'ade'
    for split, folder in (('train', 'training'), ('val', 'validation')):
        shutil.copytree(shapes_root / split, root / 'images' / folder)
        shutil.copytree(shapes_root / 'semantic' / split, root / 'annotations' / folder)
    return root


@pytest.fixture
def pair(shapes_root: Path, tmp_path: Path) -> Path:
    """images/, masks/ with another suffix, classes.txt, no splits."""
    root = tmp_path / 'pair'
    shutil.copytree(shapes_root / 'train', root / 'images')
    (root / 'masks').mkdir()
    for mask in (shapes_root / 'semantic/train').iterdir():
        shutil.copy(mask, root / 'masks' / f'{mask.stem}_mask.png')
    (root / 'classes.txt').write_text('\n'.join(NAMES))
    return root


@pytest.fixture
def voc(shapes_root: Path, tmp_path: Path) -> Path:
    """JPEGImages, color masks in SegmentationClass, lists, labelmap.txt, as CVAT exports."""
    root = tmp_path / 'voc'
    shutil.copytree(shapes_root / 'train', root / 'JPEGImages')
    (root / 'SegmentationClass').mkdir()
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    masks = sorted((shapes_root / 'semantic/train').iterdir())
    for mask in masks:
        Image.fromarray(np.array(COLORS, np.uint8)[np.asarray(Image.open(mask))]).save(root / 'SegmentationClass' / mask.name)
    (root / 'ImageSets/Segmentation/train.txt').write_text('\n'.join(mask.stem for mask in masks[:9]))
    (root / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(mask.stem for mask in masks[9:]))
    lines = [f'{name}:{r},{g},{b}::' for name, (r, g, b) in zip(NAMES, COLORS, strict=True)]
    (root / 'labelmap.txt').write_text('\n'.join(['# label:color_rgb:parts:actions', *lines]))
    return root

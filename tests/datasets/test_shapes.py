"""The built-in data: exact, repeatable, and with separate scenes per split."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ralamala_mm.datasets.shapes import CATEGORIES, draw_mask, make_scene, make_shapes, semantic_mask


@pytest.fixture(scope='module')
def annotations(shapes_root: Path) -> COCO:
    return COCO(str(shapes_root / 'annotations/instances_train.json'))


def test_masks_boxes_and_areas_agree(annotations: COCO, shapes_root: Path):
    assert len(annotations.imgs) == 12
    assert len(annotations.anns) >= 24
    for annotation in annotations.anns.values():
        mask = annotations.annToMask(annotation).astype(bool)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert annotation['area'] == mask.sum()


def test_instances_do_not_overlap_and_match_the_semantic_masks(annotations: COCO, shapes_root: Path):
    for image in annotations.imgs.values():
        entries = annotations.loadAnns(annotations.getAnnIds(imgIds=image['id']))
        masks = np.stack([annotations.annToMask(entry) for entry in entries])
        assert masks.sum(axis=0).max() == 1
        labels = sum(mask * entry['category_id'] for mask, entry in zip(masks, entries, strict=True))
        stored = cv2.imread(str(shapes_root / 'semantic/train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, labels)


def test_the_same_seed_gives_the_same_files(shapes_root: Path, tmp_path: Path):
    make_shapes(tmp_path, train=12, val=4)
    for path in (path for path in shapes_root.rglob('*') if path.is_file()):
        assert (tmp_path / path.relative_to(shapes_root)).read_bytes() == path.read_bytes(), path
    assert not make_shapes(tmp_path, train=12, val=4)  # found, and left alone
    before = (tmp_path / 'train/00000.png').read_bytes()
    assert make_shapes(tmp_path, train=12, val=4, seed=1)
    assert (tmp_path / 'train/00000.png').read_bytes() != before


def test_splits_share_no_scene():
    images = {make_scene((0, split, i), 64).image.tobytes() for split in (0, 1) for i in range(20)}
    assert len(images) == 40


def test_an_interrupted_run_is_made_again(tmp_path: Path):
    make_shapes(tmp_path, train=2, val=1)
    (tmp_path / 'dataset.json').unlink()
    assert make_shapes(tmp_path, train=2, val=1)


@pytest.mark.parametrize('category', CATEGORIES)
def test_a_shape_has_the_area_of_its_outline(category: str):
    expected = dict(circle=np.pi, square=2, triangle=3 * np.sqrt(3) / 4, star=10 * 0.5 * 0.42 * np.sin(np.pi / 5))[category]
    mask = draw_mask(category, 256, np.array([128.0, 128.0]), 100, 0.3)
    # A boundary of some 700 pixels, each off by a fraction of a pixel.
    assert mask.sum() == pytest.approx(expected * 100 ** 2, rel=0.02)


def test_every_category_occurs():
    labels = {label for i in range(40) for label in make_scene((0, 0, i), 64).labels}
    assert labels == set(range(len(CATEGORIES)))
    scene = make_scene((0, 0, 0), 64)
    assert set(np.unique(semantic_mask(scene))) == {0, *(label + 1 for label in scene.labels)}
    assert json.dumps(scene.labels)

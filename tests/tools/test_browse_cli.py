"""browse_dataset.py as a user calls it: its numbers against the files, its images there and not empty."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from ralamala_mm.analysis.browsing import count_data, draw_sheets, write_statistics
from ralamala_mm.analysis.samples import build_dataset
from ralamala_mm.apis.drawing import palette_of
from ralamala_mm.datasets import set_data_root, use_checked_loading
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def check_images(folder: Path, sheets: int) -> None:
    names = ['classes.png', 'statistics.png', *(f'images_{i + 1}.png' for i in range(sheets))]
    assert sorted(path.name for path in folder.glob('*.png')) == sorted(names)
    for name in names:
        image = np.asarray(Image.open(folder / name).convert('L'))
        assert min(image.shape) > 250
        assert image.std() > 10


def test_detection(call: Callable, shapes_root: Path, tmp_path: Path):
    result = call('python', 'tools/analysis_tools/browse_dataset.py', 'configs/demo/maskrcnn_ravlt_t_shapes.py', '--data',
                  shapes_root, '--out-dir', tmp_path, '--number', 6, '--versions', 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Counting 12 of 12 images' in result.stdout
    check_images(tmp_path, sheets=2)
    numbers = json.loads((tmp_path / 'statistics.json').read_text())
    content = json.loads((shapes_root / 'annotations/instances_train.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    assert {name: one['objects'] for name, one in numbers['per_class'].items()} == {
        **dict.fromkeys(names.values(), 0), **Counter(names[one['category_id']] for one in content['annotations'])}
    assert numbers['images'] == numbers['images_available'] == 12
    assert numbers['total'] == len(content['annotations'])
    sizes = [(one['bbox'][2] * one['bbox'][3]) ** 0.5 for one in content['annotations']]
    small = sum(size < 32 for size in sizes)
    assert 0 < small < len(sizes)
    assert numbers['box_sizes'] == dict(small=small, medium=len(sizes) - small, large=0)  # none has 96 pixels
    aspects = [one['bbox'][2] / one['bbox'][3] for one in content['annotations']]
    assert numbers['aspect_ratio_width_over_height']['quantiles']['0.5'] == pytest.approx(np.median(aspects))
    for part in ('box_size_in_pixels', 'aspect_ratio_width_over_height'):
        assert sum(numbers[part]['histogram']['counts']) == len(sizes)
    assert numbers['per_image']['mean'] == pytest.approx(len(sizes) / 12)
    assert numbers['image_width_in_pixels']['mean'] == 128


def test_segmentation(shapes_root: Path, tmp_path: Path):
    config = load_config(str(ROOT / 'configs/demo/upernet_ravlt_t_shapes.py'))
    set_data_root(config, str(shapes_root))
    use_checked_loading(config)
    dataset = build_dataset(config, 'val')
    write_statistics(count_data(config, dataset, 100), palette_of(dataset.metainfo), 'val', tmp_path)
    draw_sheets(config, dataset, 2, 1, tmp_path)
    check_images(tmp_path, sheets=1)
    numbers = json.loads((tmp_path / 'statistics.json').read_text())
    masks = [np.asarray(Image.open(path)) for path in sorted((shapes_root / 'semantic/val').glob('*.png'))]
    assert len(masks) == numbers['images'] == 4
    pixels = sum(np.bincount(mask.ravel(), minlength=5) for mask in masks)
    assert [one['pixels'] for one in numbers['per_class'].values()] == pixels.tolist()
    seen = [sum((mask == label).any() for mask in masks) for label in range(5)]
    assert [one['images'] for one in numbers['per_class'].values()] == seen
    assert numbers['ignored_pixels'] == 0


def shapes_config(shapes_root: Path, name: str = 'maskrcnn') -> Config:
    config = load_config(str(ROOT / f'configs/demo/{name}_ravlt_t_shapes.py'))
    set_data_root(config, str(shapes_root))
    use_checked_loading(config)
    return config


def test_an_image_that_the_pipeline_drops(shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Training takes another one in its place: that is said, and so is that there is none."""
    texts = []
    monkeypatch.setattr('ralamala_mm.analysis.browsing.caption', lambda image, text: texts.append(text) or image)
    config = shapes_config(shapes_root)
    pipeline = config.train_dataloader.dataset.pipeline
    pipeline.insert(len(pipeline) - 1, dict(type='FilterAnnotations', min_gt_bbox_wh=(29, 29)))
    draw_sheets(config, build_dataset(config, 'train'), 12, 1, tmp_path)
    originals = [text.split(',')[0] for text in texts[::2]]
    others = [(name, text) for name, text in zip(originals, texts[1::2], strict=True) if 'of another' in text]
    assert 0 < len(others) < 12
    assert all(name not in text and len(text) < 35 for name, text in others)
    pipeline[-2]['min_gt_bbox_wh'] = (500, 500)
    with pytest.raises(UserError, match='the pipeline makes nothing of'):
        draw_sheets(config, build_dataset(config, 'train'), 1, 1, tmp_path)


def test_boxes_that_the_pipeline_does_not_resize(shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For evaluation, images are resized before annotations are loaded: the boxes lie where they do in the image as it is."""
    drawn = []
    monkeypatch.setattr('ralamala_mm.analysis.browsing.draw_objects', lambda image, boxes, *args, **kwargs: drawn.append(
        (image.shape, boxes)) or image)
    config = shapes_config(shapes_root)
    resizing = next(step for step in config.val_dataloader.dataset.pipeline if step.type == 'Resize')
    resizing.scale = (192, 192)
    draw_sheets(config, build_dataset(config, 'val'), 2, 1, tmp_path)
    assert len(drawn) == 4
    for (shape, boxes), (resized_shape, resized) in zip(drawn[::2], drawn[1::2], strict=True):
        assert shape == resized_shape
        assert len(boxes) > 0
        np.testing.assert_allclose(boxes, resized, atol=0.01)


@pytest.mark.parametrize('part', ['train', 'val'])
@pytest.mark.parametrize('name', ['maskrcnn', 'upernet'])
def test_data_without_images(shapes_root: Path, name: str, part: str):
    config = shapes_config(shapes_root, name)
    config[f'{part}_dataloader'].dataset.indices = []
    with pytest.raises(UserError, match='gives no usable image'):
        build_dataset(config, part)


def test_images_that_are_joined(shapes_root: Path, tmp_path: Path):
    config = shapes_config(shapes_root, 'retinanet')
    dataset = config.train_dataloader.dataset
    loaders, others = dataset.pipeline[:2], dataset.pipeline[2:]
    loaders[1].with_mask = False  # MMDetection joins no masks
    mosaic = dict(type='Mosaic', img_scale=(128, 128), pad_val=114.0)
    config.train_dataloader.dataset = dict(type='MultiImageMixDataset', dataset=dict(dataset, pipeline=loaders),
                                           pipeline=[mosaic, *others])
    draw_sheets(config, build_dataset(config, 'train'), 2, 1, tmp_path)
    assert (tmp_path / 'images_1.png').stat().st_size > 1000

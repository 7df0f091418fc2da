"""browse_dataset.py as a user calls it: its numbers against the files, its pictures there and not empty."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ralamala_mm.analysis.browsing import count_data, draw_sheets, write_statistics
from ralamala_mm.analysis.drawing import palette_of
from ralamala_mm.analysis.samples import build_dataset
from ralamala_mm.datasets import set_data_root, use_checked_loading
from ralamala_mm.engine import load_config

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def check_pictures(folder: Path, sheets: int) -> None:
    names = ['classes.png', 'statistics.png', *(f'pictures_{i + 1}.png' for i in range(sheets))]
    assert sorted(path.name for path in folder.glob('*.png')) == sorted(names)
    for name in names:
        picture = np.asarray(Image.open(folder / name).convert('L'))
        assert min(picture.shape) > 250
        assert picture.std() > 10


def test_detection(call: Callable, shapes_root: Path, tmp_path: Path):
    result = call('python', 'tools/analysis_tools/browse_dataset.py', 'configs/demo/maskrcnn_ravlt_t_shapes.py', '--data',
                  shapes_root, '--out-dir', tmp_path, '--number', 6, '--versions', 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Counting 12 of 12 pictures' in result.stdout
    check_pictures(tmp_path, sheets=2)
    numbers = json.loads((tmp_path / 'statistics.json').read_text())
    content = json.loads((shapes_root / 'annotations/instances_train.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    assert {name: one['objects'] for name, one in numbers['per_class'].items()} == {
        **dict.fromkeys(names.values(), 0), **Counter(names[one['category_id']] for one in content['annotations'])}
    assert numbers['pictures'] == numbers['pictures_available'] == 12
    assert numbers['total'] == len(content['annotations'])
    sizes = [(one['bbox'][2] * one['bbox'][3]) ** 0.5 for one in content['annotations']]
    small = sum(size < 32 for size in sizes)
    assert 0 < small < len(sizes)
    assert numbers['box_sizes'] == dict(small=small, medium=len(sizes) - small, large=0)  # none has 96 pixels
    aspects = [one['bbox'][2] / one['bbox'][3] for one in content['annotations']]
    assert numbers['aspect_ratio_width_over_height']['quantiles']['0.5'] == pytest.approx(np.median(aspects))
    for part in ('box_size_in_pixels', 'aspect_ratio_width_over_height'):
        assert sum(numbers[part]['histogram']['counts']) == len(sizes)
    assert numbers['per_picture']['mean'] == pytest.approx(len(sizes) / 12)
    assert numbers['picture_width_in_pixels']['mean'] == 128


def test_segmentation(shapes_root: Path, tmp_path: Path):
    config = load_config(str(ROOT / 'configs/demo/upernet_ravlt_t_shapes.py'))
    set_data_root(config, str(shapes_root))
    use_checked_loading(config)
    dataset = build_dataset(config, 'val')
    write_statistics(count_data(config, dataset, 100), palette_of(dataset.metainfo), 'val', tmp_path)
    draw_sheets(config, dataset, 2, 1, tmp_path)
    check_pictures(tmp_path, sheets=1)
    numbers = json.loads((tmp_path / 'statistics.json').read_text())
    masks = [np.asarray(Image.open(path)) for path in sorted((shapes_root / 'semantic/val').glob('*.png'))]
    assert len(masks) == numbers['pictures'] == 4
    pixels = sum(np.bincount(mask.ravel(), minlength=5) for mask in masks)
    assert [one['pixels'] for one in numbers['per_class'].values()] == pixels.tolist()
    seen = [sum((mask == label).any() for mask in masks) for label in range(5)]
    assert [one['pictures'] for one in numbers['per_class'].values()] == seen
    assert numbers['ignored_pixels'] == 0

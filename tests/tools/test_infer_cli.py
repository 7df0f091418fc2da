"""tools/infer.py as a user calls it: folders with a broken image in them, a video, and mistakes."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

DETECTOR, SEGMENTOR = (f'configs/demo/{name}_ravlt_t_shapes.py' for name in ('maskrcnn', 'semanticfpn'))

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of random weights."""
    from ralamala_mm.apis import load_model

    torch.manual_seed(0)
    files = {}
    for config in (DETECTOR, SEGMENTOR):
        model = load_model(config, device='cpu')
        files[config] = tmp_path_factory.mktemp('weights') / 'weights.pth'
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), files[config])
    return files


@pytest.fixture
def photos(shapes_root: Path, tmp_path: Path) -> Path:
    """Two whole images in folders of their own, a broken one, and one of which no pipeline leaves anything."""
    folder = tmp_path / 'photos'
    first, second, third = sorted((shapes_root / 'val').iterdir())[:3]
    for source, name in ((first, 'one.png'), (second, 'deep/two.png')):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    (folder / 'broken.png').write_bytes(third.read_bytes()[:100])
    cv2.imwrite(str(folder / 'thin.png'), np.zeros((3000, 1, 3), np.uint8))
    return folder


def make_film(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (96, 64))
    generator = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(cv2.resize(generator.integers(0, 256, (8, 12, 3), np.uint8), (96, 64)))
    writer.release()


def test_detection_in_a_folder(call: Callable, weights: dict, photos: Path, tmp_path: Path):
    out = tmp_path / 'out'
    result = call('python', 'tools/infer.py', DETECTOR, weights[DETECTOR], photos, '--out-dir', out, '--score-threshold', 0.2,
                  '--classes', 'circle', 'star', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=100')
    assert result.returncode == 1
    for name, why in (('broken.png', 'damaged'), ('thin.png', '1×3000 pixels does not go through the test pipeline')):
        assert any(name in line and why in line for line in result.stderr.splitlines()), result.stderr
    assert 'error: 2 of 4 inputs could not be predicted' in result.stderr
    assert 'Traceback' not in result.stderr
    assert '2 images; ' in result.stdout
    assert sorted(str(path.relative_to(out)) for path in out.rglob('*.*')) == [
        'drawn/deep/two.png', 'drawn/one.png', 'predictions.csv', 'predictions.json']
    content = json.loads((out / 'predictions.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['deep/two.png', 'one.png']
    assert content['annotations']
    names = {category['id']: category['name'] for category in content['categories']}
    assert {names[annotation['category_id']] for annotation in content['annotations']} <= {'circle', 'star'}
    assert min(annotation['score'] for annotation in content['annotations']) >= 0.2
    assert all(annotation['segmentation']['size'] == [128, 128] for annotation in content['annotations'])
    assert len(list(csv.DictReader((out / 'predictions.csv').open()))) == len(content['annotations'])
    drawn, image = (cv2.imread(str(path)) for path in (out / 'drawn' / 'one.png', photos / 'one.png'))
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def test_segmentation_of_an_image_and_a_video_in_tiles(call: Callable, weights: dict, photos: Path, tmp_path: Path):
    make_film(tmp_path / 'film.avi.mp4', 5)
    out = tmp_path / 'out'
    result = call('python', 'tools/infer.py', SEGMENTOR, weights[SEGMENTOR], photos / 'one.png', tmp_path / 'film.avi.mp4',
                  '--out-dir', out, '--tile', 64, '--batch-size', 4, '--coloured')
    assert result.returncode == 0, result.stderr[-3000:]
    assert '1 image and 5 frames; ' in result.stdout
    masks = sorted(path.relative_to(out / 'masks').as_posix() for path in (out / 'masks').rglob('*.png'))
    assert masks == [*(f'film.avi/{i:06}.png' for i in range(5)), 'one.png']
    mask = np.asarray(Image.open(out / 'masks' / 'one.png'))
    assert (mask.shape, mask.dtype) == ((128, 128), np.uint8)
    assert mask.max() < 5
    assert (out / 'coloured' / 'one.png').exists()
    film = cv2.VideoCapture(str(out / 'drawn' / 'film.avi.mp4'))
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FRAME_WIDTH)) == (5, 96)
    content = json.loads((out / 'predictions.json').read_text())
    assert [image.get('frame') for image in content['images']] == [None, 0, 1, 2, 3, 4]
    assert all((out / image['mask']).exists() for image in content['images'])


def test_a_pattern_and_test_time_augmentation_without_drawings(call: Callable, weights: dict, photos: Path, tmp_path: Path):
    out = tmp_path / 'out'
    strange = photos / os.fsdecode(b'caf\xe9.png')  # a name that is not UTF-8
    shutil.copyfile(photos / 'one.png', strange)
    result = call('python', 'tools/infer.py', SEGMENTOR, weights[SEGMENTOR], f'{photos}/**/*[eo\udce9].png', '--out-dir', out,
                  '--tta', '--no-draw')
    assert result.returncode == 0, result.stderr[-3000:]
    content = json.loads((out / 'predictions.json').read_text(encoding='utf-8'))
    assert {image['file_name'] for image in content['images']} == {'one.png', 'two.png', strange.name}
    assert {path.relative_to(out).parts[0] for path in out.rglob('*.*')} == {'masks', 'predictions.json', 'predictions.csv'}
    assert all((out / image['mask']).exists() for image in content['images'])


@pytest.mark.parametrize(('options', 'sentence'), [
    (['PHOTOS', '--coloured'], 'error: --coloured is for segmentors'),
    (['PHOTOS', '--out-dir', 'PHOTOS/out'], 'lies in the input'),
    (['PHOTOS', '--classes', 'sqare'], 'error: --classes sqare: the model has no such class; did you mean square or'),
])
def test_mistakes(call: Callable, weights: dict, photos: Path, tmp_path: Path, options: list[str], sentence: str):
    options = [option.replace('PHOTOS', str(photos)) for option in options]
    options += [] if '--out-dir' in options else ['--out-dir', str(tmp_path / 'out')]
    result = call('python', 'tools/infer.py', DETECTOR, weights[DETECTOR], *options)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / 'out').exists()
    assert not (photos / 'out').exists()

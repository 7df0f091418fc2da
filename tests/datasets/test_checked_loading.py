"""Images of every kind are read as one sees them; those that cannot be used are told, or skipped and listed."""

import io
import multiprocessing
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image, ImageOps, features

from ralamala_mm.datasets import LoadCheckedImage, use_checked_loading, use_skipping
from ralamala_mm.datasets.config import datasets_of
from ralamala_mm.datasets.images import FileUserError, shared_files
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Y, X = np.mgrid[:40, :56]
RGB = np.stack([X * 4, Y * 6, (X + Y) * 2], -1).astype(np.uint8)  # a ramp in each channel
GREY = RGB[..., 0]
TRIANGLE = [10, 10, 60, 10, 60, 60]
ALPHA = np.full((40, 56), 90, np.uint8)


def read(path: Path, **results: object) -> np.ndarray:
    """`[H, W, 3]` RGB."""
    return LoadCheckedImage()(dict(img_path=str(path), **results))['img'][..., ::-1]


def save(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    (Image.fromarray(values) if isinstance(values, np.ndarray) else values).save(path, **options)
    return path


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


KINDS = [
    ('grey.png', GREY, {}, three(GREY), 0),
    ('grey.jpg', GREY, dict(quality=98), three(GREY), 3),
    ('two levels.png', GREY > 100, {}, three(np.where(GREY > 100, 255, 0)), 0),
    ('rgba.png', np.dstack([RGB, ALPHA]), {}, RGB, 0),
    ('rgba.tif', np.dstack([RGB, ALPHA]), {}, RGB, 0),
    ('rgba.webp', np.dstack([RGB, ALPHA]), dict(lossless=True), RGB, 0),
    ('grey and alpha.png', Image.merge('LA', (Image.fromarray(GREY), Image.fromarray(ALPHA))), {}, three(GREY), 0),
    ('grey and alpha.tif', Image.merge('LA', (Image.fromarray(GREY), Image.fromarray(ALPHA))), {}, three(GREY), 0),
    ('palette.png', Image.fromarray(GREY).convert('P'), {}, three(GREY), 0),
    ('palette.bmp', Image.fromarray(GREY).convert('P'), {}, three(GREY), 0),
    ('cmyk.jpg', Image.fromarray(RGB).convert('CMYK'), dict(quality=98, subsampling=0), RGB, 8),
    ('cmyk.tif', Image.fromarray(RGB).convert('CMYK'), {}, RGB, 2),
    ('sixteen bits.png', GREY.astype(np.uint16) * 257, {}, three(GREY), 0),
    ('sixteen bits.tif', GREY.astype(np.uint16) * 257, {}, three(GREY), 0),
]


@pytest.mark.parametrize(('name', 'values', 'options', 'expected', 'tolerance'), KINDS, ids=[kind[0] for kind in KINDS])
def test_kinds_of_images(name: str, values: object, options: dict, expected: np.ndarray, tolerance: int, tmp_path: Path):
    image = read(save(tmp_path / name, values, **options))
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('flag', ['color', 'grayscale', 'unchanged'])
def test_sixteen_bits_are_the_same_to_both_decoders(flag: str, suffix: str, tmp_path: Path):
    values = (Y * 56 + X).astype(np.uint16) * 29  # 0 to 64931
    path = save(tmp_path / f'a{suffix}', values)
    expected = values if flag == 'unchanged' else (values >> 8).astype(np.uint8)
    for backend in ('cv2', 'pillow'):
        image = LoadCheckedImage(color_type=flag, imdecode_backend=backend)(dict(img_path=str(path)))['img']
        assert np.array_equal(image, three(expected) if flag == 'color' else expected)


def test_pillow_refuses_32_bits_too(tmp_path: Path):
    path = save(tmp_path / 'a.tif', GREY.astype(np.int32) * 257)
    with pytest.raises(UserError, match='cannot be decoded by pillow, a TIFF of 32 or 64 bits a value'):
        LoadCheckedImage(imdecode_backend='pillow')(dict(img_path=str(path)))


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_three_channels_of_sixteen_bits(suffix: str, tmp_path: Path):
    path = tmp_path / f'a{suffix}'
    cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read(path), RGB)


SUFFIXES = ['.jpg', '.png', '.webp', '.tif', *(['.avif'] if features.check('avif') else [])]


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('how', range(1, 9))
def test_turned_images(how: int, suffix: str, tmp_path: Path):
    """All eight ways of holding a camera; Pillow says how the image looks. Annotated as stored, it is read as stored."""
    exif = Image.Exif()
    exif[0x0112] = how
    options = {'.webp': dict(lossless=True), '.jpg': dict(quality=98, subsampling=0), '.avif': dict(quality=100)}.get(suffix, {})
    path = save(tmp_path / f'a{suffix}', RGB, exif=exif, **options)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert('RGB')).astype(int)
    height, width = expected.shape[:2]
    for annotated in ({}, dict(height=height, width=width)):
        image = read(path, **annotated)
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= 12  # two JPEG decoders
    if how >= 5:
        assert np.abs(read(path, height=40, width=56) - RGB.astype(int)).max() <= 12
    with pytest.raises(UserError, match=r'pixels, not 20×30 as the annotations say'):
        read(path, height=30, width=20)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('flag', ['color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation'])
@pytest.mark.parametrize('how', [5, 6, 7, 8])
def test_the_annotated_size_decides_whatever_the_flag(how: int, flag: str, backend: str, tmp_path: Path):
    """Some flags turn while decoding, and others do not: annotated upright it is upright, and as stored it is as stored."""
    exif = Image.Exif()
    exif[0x0112] = how
    path = save(tmp_path / 'a.png', RGB, exif=exif)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert('RGB'))
    reader = LoadCheckedImage(color_type=flag, imdecode_backend=backend)
    for expected in (upright, RGB):
        height, width = expected.shape[:2]
        image = reader(dict(img_path=str(path), height=height, width=width))['img']
        if flag.startswith('grayscale'):
            image, expected = image.astype(int), np.asarray(Image.fromarray(expected).convert('L')).astype(int)
            assert image.shape == expected.shape
            assert np.abs(image - expected).max() <= 1  # two roundings
        else:
            assert np.array_equal(image[..., ::-1], expected)


@pytest.mark.parametrize('values', [GREY.astype(np.float32) / 255, np.full((40, 56), np.nan, np.float32), GREY.astype(np.int32),
                                    GREY.astype(np.float64)], ids=['float', 'nan', 'int32', 'double'])
def test_values_whose_range_nothing_says(values: np.ndarray, tmp_path: Path):
    path = tmp_path / 'a.tiff'
    assert cv2.imwrite(str(path), values)
    with pytest.raises(UserError, match=r'image \S+a\.tiff cannot be decoded by cv2, a TIFF of 32 or 64 bits a value'):
        read(path)


def test_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More pixels than Pillow reads are no obstacle for PNG and JPEG; beyond that there is a sentence."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)  # twice that is refused, and these have 2240
    assert read(save(tmp_path / 'a.png', RGB)).shape == RGB.shape
    with pytest.raises(UserError, match='more pixels than Pillow reads'):
        read(save(tmp_path / 'a.bmp', RGB))


def test_names_from_other_systems(tmp_path: Path):
    (tmp_path / 'train').mkdir()
    composed, decomposed = (unicodedata.normalize(form, 'Café.png') for form in ('NFC', 'NFD'))
    save(tmp_path / 'train/a.png', RGB)
    save(tmp_path / 'train' / decomposed, RGB)
    names = ['train\\a.png', 'C:\\data\\train\\a.png', f'train\\{composed}', f'train/{composed}', f'train/{decomposed}']
    for name in names:
        results = LoadCheckedImage()(dict(img_path=f'{tmp_path}/{name}'))
        assert np.array_equal(results['img'][..., ::-1], RGB), name
        assert Path(results['img_path']).is_file()  # for what draws it later
    with pytest.raises(UserError, match='does not exist, though the annotations name it'):
        read(tmp_path / 'train\\b.png')
    with pytest.raises(UserError, match='cannot be read'):
        read(tmp_path / 'a\0.png')


def test_two_names_of_one_file(tmp_path: Path):
    r"""`cam1\1.png` and `cam2\1.png` are two images; a `1.png` without folders is only one of them, if any."""
    save(tmp_path / '1.png', RGB)
    (tmp_path / 'train').mkdir()
    save(tmp_path / 'train/1.png', RGB)
    accents = [unicodedata.normalize(form, 'é.png') for form in ('NFC', 'NFD')]
    save(tmp_path / accents[0], RGB)
    assert shared_files(['cam1\\1.png', 'cam2\\1.png', 'cam2\\2.png'], tmp_path) == ['cam1\\1.png and cam2\\1.png']
    assert shared_files(['C:\\x\\1.png', '1.png'], tmp_path) == ['C:\\x\\1.png and 1.png']
    assert shared_files(['cam1\\1.png', 'train\\1.png'], tmp_path) == []  # two files
    assert shared_files(['train\\1.png', 'train/1.png', './train/1.png'], tmp_path) == []  # one name
    assert shared_files(['cam1\\3.png', 'cam2\\3.png', *accents, *(f'.\\{name}' for name in accents)], tmp_path) == []


def test_one_fault_survives_the_way_from_a_worker():
    """torch builds an exception anew from the text that a worker reports."""
    error = FileUserError('Caught FileUserError in DataLoader worker process 0.\n…FileUserError: image a is empty')
    assert error.sentence == 'image a is empty'


def skip(path: str, list_file: str) -> None:
    transform = LoadCheckedImage(bad_files=dict(limit=50, list_file=list_file))
    for i in range(10):
        assert transform(dict(img_path=f'{path}/{i}.png')) is None


def test_each_skipped_image_is_listed_once_by_all_processes(tmp_path: Path):
    list_file = tmp_path / 'work/skipped_images.txt'
    processes = [multiprocessing.get_context('fork').Process(target=skip, args=(str(tmp_path), str(list_file))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(list_file.read_text().split()) == [f'{tmp_path}/{i}.png' for i in range(10)]


def test_the_limit_of_skipped_images(tmp_path: Path):
    good = save(tmp_path / 'good.png', RGB)
    transform = LoadCheckedImage(bad_files=dict(limit=2, list_file=str(tmp_path / 'list.txt')))
    for _ in range(60):  # the same two again are no others, and good ones come between
        for name in ('a.png', 'b.png', good.name):
            assert (transform(dict(img_path=f'{tmp_path}/{name}')) is None) == (name != good.name)
    with pytest.raises(UserError, match=r'3 images cannot be used, and skip_bad_images allows 2: \S+list.txt lists them'):
        transform(dict(img_path=f'{tmp_path}/c.png'))


def test_nothing_but_bad_images_ends(tmp_path: Path):
    transform = LoadCheckedImage(bad_files=dict(limit=1000, list_file=str(tmp_path / 'list.txt')))
    for i in range(99):
        transform(dict(img_path=f'{tmp_path}/{i % 20}.png'))
    with pytest.raises(UserError, match='100 images in a row cannot be used'):
        transform(dict(img_path=f'{tmp_path}/a.png'))


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Config]:
    def load(name: str) -> Config:
        monkeypatch.chdir(ROOT)
        loaded = load_config(f'configs/demo/{name}.py')
        loaded.work_dir = str(tmp_path)
        use_checked_loading(loaded)
        return loaded

    return load


@pytest.mark.parametrize('name', ['maskrcnn_ravlt_t_shapes', 'semanticfpn_ravlt_t_shapes'])
def test_only_training_skips(name: str, config: Callable, tmp_path: Path):
    own = config(name)
    (tmp_path / 'skipped_images.txt').write_text('of an earlier run\n')
    use_skipping(own, 7, starts_list=True)
    assert not (tmp_path / 'skipped_images.txt').exists()
    limits = {mode: [transform.get('bad_files', {}).get('limit') for transform in dataset.pipeline[:3]]
              for mode, dataset in datasets_of(own)}
    assert limits['train'] == [7, 7, None]
    assert limits['val'] == limits['test'] == [None] * 3


def test_a_resumed_training_goes_on_counting(config: Callable, tmp_path: Path):
    own = config('maskrcnn_ravlt_t_shapes')
    own.update(skip_bad_images=3, resume=True)
    (tmp_path / 'skipped_images.txt').write_text('of an earlier run\n')
    use_skipping(own, starts_list=True)
    assert (tmp_path / 'skipped_images.txt').exists()
    assert own.train_dataloader.dataset.pipeline[0].bad_files.limit == 3


def masked(tmp_path: Path, mask: np.ndarray | bytes, **arguments: object) -> np.ndarray:
    from ralamala_mm.datasets.mask_loading import LoadCheckedMask

    path = tmp_path / 'mask.png'
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    else:
        save(path, mask)
    sample = dict(img_path='image.jpg', seg_map_path=str(path), ori_shape=(40, 56), reduce_zero_label=False, label_map=None,
                  seg_fields=[])
    return LoadCheckedMask(**arguments)(sample)['gt_seg_map']


def test_masks_that_fit(tmp_path: Path):
    values = (GREY // 60).astype(np.uint8)
    for mask in (values, values.astype(np.uint16)):
        assert np.array_equal(masked(tmp_path, mask, classes=4), values)
    values[0] = 255
    assert np.array_equal(masked(tmp_path, values, classes=4), values)


@pytest.mark.parametrize(('mask', 'message'), [
    (GREY[:20], r'mask \S+mask.png is 56×20 pixels, its image 56×40'),
    (GREY.astype(np.uint16) * 9, 'values that are not integers from 0 to 255'),
    (RGB, 'has 3 channels, where one holds the classes'),
    (GREY, r'has values outside the 4 classes: 4, 8'),
    (b'no mask', r'mask \S+mask.png is not an image'),
])
def test_masks_that_do_not_fit(mask: np.ndarray | bytes, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        masked(tmp_path, mask, classes=4)


def test_a_mask_is_compared_with_the_image_as_it_was_read(tmp_path: Path):
    """In tests, MMSegmentation reads masks after the image was resized."""
    from ralamala_mm.datasets.mask_loading import LoadCheckedMask

    save(tmp_path / 'a.png', GREY // 60)
    sample = dict(seg_map_path=str(tmp_path / 'a.png'), ori_shape=(40, 56), img_shape=(80, 112), reduce_zero_label=False,
                  label_map=None, seg_fields=[])
    assert LoadCheckedMask()(sample)['gt_seg_map'].shape == (40, 56)


@pytest.mark.parametrize('filters', [True, False])
def test_images_without_instances_train(filters: bool, shapes_root: Path, tmp_path: Path, config: Callable):
    """Half of the images are empty: left out, or learnt from as background; the loss is finite and has a gradient."""
    import json

    import torch
    from mmengine.registry import DATASETS

    from ralamala_mm.engine import build_model

    root = Path(shutil.copytree(shapes_root, tmp_path / 'data'))
    path = root / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    content['annotations'] = [entry for entry in content['annotations'] if not entry['image_id'] % 2]
    path.write_text(json.dumps(content))
    own = config('maskrcnn_ravlt_t_shapes')
    own.train_dataloader.dataset.update(data_root=str(root), filter_cfg=dict(filter_empty_gt=filters))
    model = build_model(own).train()
    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        dataset = registry.build(own.train_dataloader.dataset)
    assert len(dataset) == (6 if filters else 12)
    samples = [dataset[0]] if filters else [dataset[0], dataset[2]]  # the second batch has nothing but empty images
    counts = [len(sample['data_samples'].gt_instances) for sample in samples]
    assert all(counts) if filters else not any(counts)
    batch = model.data_preprocessor(dict(inputs=[sample['inputs'] for sample in samples],
                                         data_samples=[sample['data_samples'] for sample in samples]), True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    total = sum(torch.as_tensor(value).sum() if not isinstance(value, list) else sum(value) for name, value in losses.items()
                if 'loss' in name)
    assert torch.isfinite(total)
    total.backward()
    assert torch.isfinite(next(model.backbone.parameters()).grad).all()


def instances(segmentation: object, bbox: tuple = (10.0, 10.0, 60.0, 60.0), evaluated: bool = False) -> dict:
    from ralamala_mm.datasets.instance_loading import LoadCheckedInstances

    entry = dict(bbox=list(bbox), bbox_label=0, ignore_flag=0, mask=segmentation)
    sample = dict(img_path='a.jpg', height=128, width=128, ori_shape=(128, 128), instances=[entry])
    return LoadCheckedInstances(with_bbox=True, with_mask=True, evaluated=evaluated)(sample)


@pytest.mark.parametrize('segmentation', [
    [[10, 10, 60, 10]], [[10, 10, 60, 10, 60, 60, 5]], [[10, 10, 10, 10, 10, 10]], [[10, 10, 60, 10, 60, 60], [1, 2]],
    dict(size=[128, 128], counts=[0, 128 * 128]), dict(size=[128, 128], counts=[128 * 128]),
])
def test_degenerate_outlines_are_left_to_mmdetection(segmentation: object):
    assert instances(segmentation)['gt_masks'].masks.shape == (1, 128, 128)


@pytest.mark.parametrize(('segmentation', 'message'), [
    (dict(size=[64, 64], counts=[64 * 64]), r'run lengths for size \[64, 64\]'),
    (dict(size=[128, 128], counts=[5]), 'for 5 pixels, and its image has 16384'),
    (dict(size=[128, 128], counts=[-1, 128 * 128 + 1]), 'cannot be read'),
    (dict(size=[128, 128], counts='o'), 'cannot be read'),
    ([[1.0, 2.0, float('inf'), 3.0, 4.0, 5.0]], 'no finite numbers'),
    (None, 'is a NoneType'),
])
def test_outlines_that_would_end_a_worker(segmentation: object, message: str):
    with pytest.raises(UserError, match=message):
        instances(segmentation)


def test_boxes_of_nan():
    with pytest.raises(UserError, match='has a box with values that are no finite numbers'):
        instances([[10, 10, 60, 10, 60, 60]], bbox=(float('nan'), 0, 1, 1))


@pytest.mark.parametrize('segmentation', [[[10, 10]], [[1, 2], TRIANGLE], [[1, 2, 3, 4], TRIANGLE], [[], TRIANGLE],
                                          [[1, 2, 3, 4], [5, 6, 7, 8]]])
def test_outlines_that_only_evaluation_stumbles_over(segmentation: list):
    """What pycocotools makes of them is an exception; training leaves the short parts out."""
    assert instances(segmentation)['gt_masks'].masks.shape == (1, 128, 128)
    with pytest.raises(UserError, match='begins with, a polygon of fewer than three points, which cannot be evaluated'):
        instances(segmentation, evaluated=True)


@pytest.mark.parametrize('segmentation', [[TRIANGLE], [TRIANGLE, [1, 2]], [TRIANGLE, []], [TRIANGLE, [1, 2, 3, 4, 5, 6, 7]]])
def test_outlines_that_can_be_evaluated(segmentation: list):
    from pycocotools import mask as coco_mask

    assert coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, 128, 128))) > 1000
    assert instances(segmentation, evaluated=True)['gt_masks'].masks.any()


def test_run_lengths_are_counted_as_pycocotools_does():
    from pycocotools import mask as coco_mask

    from ralamala_mm.datasets.segmentations import segmentation_problem

    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 5), (128, 96), (600, 800)):
        for density in (0, 0.01, 0.5, 1):
            encoded = coco_mask.encode(np.asfortranarray(rng.random((height, width)) < density, dtype=np.uint8))
            assert segmentation_problem(dict(encoded, size=[height, width]), height, width) is None
            shorter = coco_mask.encode(np.asfortranarray(np.ones((height, width + 1), np.uint8)))
            assert 'pixels, and its image has' in segmentation_problem(dict(shorter, size=[height, width]), height, width)


def test_a_gif_is_read_as_its_first_image(tmp_path: Path):
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, 'GIF', save_all=True, append_images=[Image.fromarray(255 - GREY)])
    (tmp_path / 'a.gif').write_bytes(stream.getvalue())
    assert np.array_equal(read(tmp_path / 'a.gif'), three(GREY))

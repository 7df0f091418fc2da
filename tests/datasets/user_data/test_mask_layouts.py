"""Layouts of segmentation data sets as people, tools and public data sets leave them: perfect predictions score 100 % mIoU."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from PIL import Image

from ralamala_mm.datasets import check_paths, use_data
from ralamala_mm.errors import UserError

SIZE = (40, 48)
NAMES = ('background', 'cat', 'dog')
COLORS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))  # Pascal VOC's
Truth = dict[str, np.ndarray]


def mask_of(seed: int, values: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Values in different places of each image; each of them in each mask `[H, W]` uint8."""
    mask = np.zeros(SIZE, np.uint8)
    for i, value in enumerate(values):
        mask[:, i * SIZE[1] // len(values):] = value
    return np.roll(mask, seed * 5, axis=1)


def put(path: Path, pixels: np.ndarray | None = None, palette: tuple | None = None) -> None:
    """An image; one of its own by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(list(str(path).encode())).integers(0, 255, (*SIZE, 3), np.uint8)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([channel for color in palette for channel in color])
    image.save(path, **({'quality': 95} if path.suffix == '.jpg' else {}))


def painted(mask: np.ndarray, colors: tuple) -> np.ndarray:
    return np.array(colors, np.uint8)[mask]


def evaluated(config: Config, mode: str, truth: Truth) -> dict[str, float]:
    """The config's own metric for the truth as predictions, of the masks that MMSegmentation reads."""
    import mmseg.datasets
    import mmseg.evaluation  # noqa: F401

    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(dict(config[f'{mode}_dataloader'].dataset, pipeline=pipeline))
    with METRICS.switch_scope_and_registry('mmseg') as registry:
        metric = registry.build(config.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    read = {Path(item['img_path']).stem.removesuffix('_leftImg8bit').removesuffix('_sat'): item['gt_seg_map'] for item in dataset}
    assert set(read) == set(truth)
    for stem, mask in read.items():
        assert (mask == truth[stem]).all(), stem
        predicted = torch.from_numpy(np.where(truth[stem] == 255, 0, truth[stem]).astype(np.int64))
        labels = torch.from_numpy(mask.astype(np.int64))
        metric.process({}, [dict(pred_sem_seg=dict(data=predicted[None]), gt_sem_seg=dict(data=labels[None]))])
    return metric.evaluate(len(read))


# Each writes a data set and returns its classes and what each split holds.


def roboflow(root: Path) -> tuple[tuple, dict[str, Truth]]:
    truth = {}
    for split, folder in (('train', 'train'), ('val', 'valid'), ('test', 'test')):
        truth[split] = {f'{folder}{i}_jpg.rf.0a{i}': mask_of(i) for i in range(3)}
        for stem, mask in truth[split].items():
            put(root / folder / f'{stem}.jpg')
            put(root / folder / f'{stem}_mask.png', mask)
        (root / folder / '_classes.csv').write_text('Pixel Value, Class\n0, background\n1, cat\n2, dog\n')
    return NAMES, truth


CAMVID = '64 128 64\tAnimal\n128 0 0\t\tBuilding\n64 0 128\tCar\n0 0 0\t\tVoid\n'
CAMVID_NAMES = ('Animal', 'Building', 'Car', 'Void')
CAMVID_COLORS = ((64, 128, 64), (128, 0, 0), (64, 0, 128), (0, 0, 0))


def camvid_full(root: Path) -> tuple[tuple, dict[str, Truth]]:
    truth = {f'0001TP_00{i}': mask_of(i, (0, 1, 2, 3)) for i in range(11)}
    for stem, mask in truth.items():
        put(root / '701_StillsRaw_full' / f'{stem}.png')
        put(root / 'LabeledApproved_full' / f'{stem}_L.png', painted(mask, CAMVID_COLORS))
    (root / 'label_colors.txt').write_text(CAMVID)
    held_out = sorted(truth)[::10]
    return CAMVID_NAMES, {'train': {stem: truth[stem] for stem in truth if stem not in held_out},
                          'val': {stem: truth[stem] for stem in held_out}}


def camvid_kaggle(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """One folder deeper, as the archive unpacks."""
    truth = {split: {f'0016E5_{split}{i}': mask_of(i, (0, 1, 2, 3)) for i in range(2)} for split in ('train', 'val', 'test')}
    for split, masks in truth.items():
        for stem, mask in masks.items():
            put(root / 'CamVid' / split / f'{stem}.png')
            put(root / 'CamVid' / f'{split}_labels' / f'{stem}_L.png', painted(mask, CAMVID_COLORS))
    lines = 'name,r,g,b\nAnimal,64,128,64\nBuilding,128, 0, 0\nCar,64, 0, 128\nVoid,0,0,0\n'
    (root / 'CamVid' / 'class_dict.csv').write_text(lines)
    return CAMVID_NAMES, truth


def camvid_segnet(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Values from 0 to 10, 11 being unlabelled, and paths of the authors' machine."""
    masks = {split: {f'{split}{i}': mask_of(i, (*range(12),)) for i in range(2)} for split in ('train', 'val', 'test')}
    for split, found in masks.items():
        for stem, mask in found.items():
            put(root / split / f'{stem}.png')
            put(root / f'{split}annot' / f'{stem}.png', mask)
        lines = [f'/SegNet/CamVid/{split}/{stem}.png /SegNet/CamVid/{split}annot/{stem}.png\n' for stem in found]
        (root / f'{split}.txt').write_text(''.join(lines))
    names = ('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist')
    return names, {split: {stem: np.where(mask == 11, 255, mask) for stem, mask in found.items()}
                   for split, found in masks.items()}


def camvid_datumaro(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """As datumaro 1.13.12 writes it: no colors, no background in the list, quotes where names have blanks."""
    truth = {split: {name: mask_of(i) for i, name in enumerate([f'{split}0', f'{split} 1'])} for split in ('train', 'val')}
    for split, masks in truth.items():
        lines = ''
        for stem, mask in masks.items():
            put(root / split / f'{stem}.jpg')
            put(root / f'{split}annot' / f'{stem}.png', painted(mask, COLORS))
            pair = f'/{split}/{stem}.jpg', f'{split}annot/{stem}.png'
            lines += ('"{}" "{}"\n' if ' ' in stem else '{} {}\n').format(*pair)
        put(root / split / 'empty.jpg')
        (root / f'{split}.txt').write_text(lines + f'/{split}/empty.jpg \n')
    (root / 'label_colors.txt').write_text(' cat\n dog\n')
    return NAMES, truth


LAND = 'name,r,g,b\nurban_land,0,255,255\nagriculture_land,255,255,0\nwater,0,0,255\nunknown,0,0,0\n'


def deepglobe_land(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Masks for train alone, and some pixels of colors that are nearly those of the list."""
    colors = ((0, 255, 255), (255, 255, 0), (0, 0, 255), (0, 0, 0))
    truth = {f'{i}': mask_of(i, (0, 1, 2, 3)) for i in range(11)}
    for stem, mask in truth.items():
        pixels = painted(mask, colors)
        pixels[0, 0] = np.where(pixels[0, 0] > 0, 253, 2)
        put(root / 'train' / f'{stem}_sat.jpg')
        put(root / 'train' / f'{stem}_mask.png', pixels)
        put(root / 'valid' / f'1{stem}_sat.jpg')
    (root / 'class_dict.csv').write_text(LAND)
    held_out = sorted(truth)[::10]
    return ('urban_land', 'agriculture_land', 'water', 'unknown'), {
        'train': {stem: truth[stem] for stem in truth if stem not in held_out}, 'val': {stem: truth[stem] for stem in held_out}}


def deepglobe_roads(root: Path) -> tuple[tuple, dict[str, Truth]]:
    truth = {split: {f'{split}{i}': mask_of(i, (0, 1)) for i in range(2)} for split in ('train', 'val')}
    for split, masks in truth.items():
        for stem, mask in masks.items():
            pixels = mask * 255
            pixels[3, :4] = np.where(mask[3, :4] == 1, (254, 240, 200, 128), (127, 60, 20, 1))
            put(root / split / f'{stem}_sat.jpg')
            put(root / split / f'{stem}_mask.png', np.repeat(pixels[..., None], 3, axis=2))
    return ('background', 'object'), truth


def cityscapes(root: Path, with_train_ids: bool) -> tuple[tuple, dict[str, Truth]]:
    """Ids of road (7), car (26) and bicycle (33), of what is not trained (0, 4, 29), and -1 as 255."""
    ids, train_ids = (7, 26, 33, 0, 4, 29, 255), (0, 13, 18, 255, 255, 255, 255)
    truth = {}
    for split in ('train', 'val'):
        truth[split] = {}
        for i, city in enumerate(('aachen', 'ulm')):
            stem = f'{city}_{split}_00000{i}'
            truth[split][stem] = mask_of(i, train_ids)
            put(root / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png')
            folder = root / 'gtFine' / split / city
            put(folder / f'{stem}_gtFine_labelIds.png', mask_of(i, ids))
            put(folder / f'{stem}_gtFine_instanceIds.png', mask_of(i, ids).astype(np.uint16) * 100)
            put(folder / f'{stem}_gtFine_color.png', painted(mask_of(i), COLORS))
            (folder / f'{stem}_gtFine_polygons.json').write_text('{}')
            put(root / 'gtCoarse' / split / city / f'{stem}_gtCoarse_labelIds.png', mask_of(i, (0, 7)))
            if with_train_ids:
                put(folder / f'{stem}_gtFine_labelTrainIds.png', truth[split][stem])
    put(root / 'leftImg8bit/test/bonn/bonn_0_leftImg8bit.png')
    put(root / 'gtFine/test/bonn/bonn_0_gtFine_labelIds.png', mask_of(0, (1, 3)))
    if with_train_ids:
        put(root / 'gtFine/test/bonn/bonn_0_gtFine_labelTrainIds.png', np.full(SIZE, 255, np.uint8))
    return ('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation', 'terrain',
            'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'), truth | {'test': truth['val']}


def cityscapes_ids(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return cityscapes(root, False)


def cityscapes_train_ids(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return cityscapes(root, True)


def cityscapes_datumaro(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Other classes in the folders of Cityscapes, without cities."""
    truth = {split: {f'{split}{i}': mask_of(i) for i in range(2)} for split in ('train', 'val')}
    for split, masks in truth.items():
        for stem, mask in masks.items():
            put(root / 'leftImg8bit' / split / f'{stem}_leftImg8bit.png')
            put(root / 'gtFine' / split / f'{stem}_gtFine_labelIds.png', mask)
            put(root / 'gtFine' / split / f'{stem}_gtFine_color.png', painted(mask, COLORS))
    (root / 'label_colors.txt').write_text(' background\n cat\n dog\n')
    return NAMES, truth


def voc2012(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Palette PNGs with a border of 255; images without masks; masks of objects."""
    truth = {'train': {f'2007_00000{i}': mask_of(i, (0, 15, 20, 255)) for i in range(3)},
             'val': {f'2008_00000{i}': mask_of(i, (0, 15, 20, 255)) for i in range(3)}}
    voc = root / 'VOCdevkit/VOC2012'
    palette = tuple((i, 255 - i, i) for i in range(256))
    for split, masks in truth.items():
        for stem, mask in masks.items():
            put(voc / 'JPEGImages' / f'{stem}.jpg')
            put(voc / 'SegmentationClass' / f'{stem}.png', mask, palette)
            put(voc / 'SegmentationObject' / f'{stem}.png', mask_of(9, (0, 1, 2, 3)), palette)
        (voc / 'ImageSets/Segmentation').mkdir(parents=True, exist_ok=True)
        (voc / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(masks) + '\n')
    (voc / 'ImageSets/Segmentation/trainval.txt').write_text('\n'.join([*truth['train'], *truth['val']]))
    (voc / 'ImageSets/Main').mkdir()
    (voc / 'ImageSets/Main/cat_train.txt').write_text('2007_000000 -1\n')
    put(voc / 'JPEGImages/2009_000001.jpg')
    return ('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
            'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'), truth


def voc_datumaro(root: Path) -> tuple[tuple, dict[str, Truth]]:
    truth = {split: {f'{split} {i}': mask_of(i) for i in range(2)} for split in ('train', 'val')}
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    for split, masks in truth.items():
        for stem, mask in masks.items():
            put(root / 'JPEGImages' / f'{stem}.jpg')
            put(root / 'SegmentationClass' / f'{stem}.png', painted(mask, COLORS))
        (root / f'ImageSets/Segmentation/{split}.txt').write_text('\n'.join(masks))
    (root / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n')
    return NAMES, truth


def cvat(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Segmentation mask 1.1: one list called default."""
    truth = {f'a{i}': mask_of(i) for i in range(3)}
    for stem, mask in truth.items():
        put(root / 'JPEGImages' / f'{stem}.png')
        put(root / 'SegmentationClass' / f'{stem}.png', painted(mask, ((0, 0, 0), (250, 50, 83), (50, 183, 250))))
        put(root / 'SegmentationObject' / f'{stem}.png', painted(mask, COLORS))
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    (root / 'ImageSets/Segmentation/default.txt').write_text('\n'.join(truth))
    (root / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:50,183,250::\n')
    return NAMES, {'train': {stem: truth[stem] for stem in ('a1', 'a2')}, 'val': {'a0': truth['a0']}}


def labelme(root: Path, masks: str, arrays: str) -> tuple[tuple, dict[str, Truth]]:
    truth = {f'a{i}': mask_of(i) for i in range(3)}
    for stem, mask in truth.items():
        put(root / 'JPEGImages' / f'{stem}.jpg')
        put(root / masks / f'{stem}.png', mask, COLORS + ((9, 9, 9),) * 253)
        put(root / 'SegmentationClassVisualization' / f'{stem}.jpg')
        (root / arrays).mkdir(exist_ok=True)
        np.save(root / arrays / f'{stem}.npy', mask)
    (root / 'class_names.txt').write_text('_background_\ncat\ndog')
    return ('_background_', 'cat', 'dog'), {'train': {stem: truth[stem] for stem in ('a1', 'a2')}, 'val': {'a0': truth['a0']}}


def labelme_3(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return labelme(root, 'SegmentationClassPNG', 'SegmentationClass')


def labelme_5(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return labelme(root, 'SegmentationClass', 'SegmentationClassNpy')


def objects(mask: np.ndarray) -> list[np.ndarray]:
    """Two objects of class 1 and one of class 2, as masks of 0 and 255."""
    upper = np.zeros(SIZE, bool)
    upper[:20] = True
    return [((mask == 1) & upper) * np.uint8(255), ((mask == 1) & ~upper) * np.uint8(255), (mask == 2) * np.uint8(255)]


def bowl(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Kaggle's Data Science Bowl 2018, with an image without nuclei; RGBA images, names of masks that mean nothing."""
    truth = {}
    for i in range(3):
        name, mask = f'{i}9f{i}', mask_of(i)
        folder = root / 'stage1_train' / name
        put(folder / 'images' / f'{name}.png', np.random.default_rng(i).integers(0, 255, (*SIZE, 4), np.uint8))
        for number, one in enumerate(objects(mask)):
            put(folder / 'masks' / f'{number}b7{i}e.png', one)
        truth[name] = (mask > 0).astype(np.uint8)
    put(root / 'stage1_train/ff/images/ff.png')
    (root / 'stage1_train/ff/masks').mkdir()
    truth['ff'] = np.zeros(SIZE, np.uint8)
    put(root / 'stage1_test/ee/images/ee.png')
    (root / 'stage1_train_labels.csv').write_text('ImageId,EncodedPixels\n')
    first = min(truth)
    return ('background', 'object'), {'train': {stem: truth[stem] for stem in truth if stem != first},
                                      'val': {first: truth[first]}}


def split_objects(root: Path, name: Callable[[str, str, int], str], classes: bool) -> tuple[tuple, dict[str, Truth]]:
    """A mask for each object, its name made of the image's, the class and a number."""
    truth = {}
    for split in ('train', 'val'):
        truth[split] = {}
        for i in range(2):
            stem, mask = f'{split}_{i}', mask_of(i)
            put(root / 'images' / split / f'{stem}.jpg')
            for number, (word, one) in enumerate(zip(('cat', 'cat', 'dog'), objects(mask), strict=True)):
                path = root / 'masks' / split / f'{name(stem, word, number)}.png'
                put(path, np.maximum(one, np.asarray(Image.open(path)) if path.exists() else 0))
            truth[split][stem] = mask if classes else (mask > 0).astype(np.uint8)
    return NAMES if classes else ('background', 'object'), truth


def numbered(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}_{number + 1}', False)


def numbered_masks(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}_mask_{number}', False)


def in_folders(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}/{number}', False)


def in_folders_with_classes(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}/{word}_{number}', True)


def with_classes(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}_{word}_{number}', True)


def one_for_each_class(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{stem}_{word}', True)


def folders_of_classes(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return split_objects(root, lambda stem, word, number: f'{word}/{stem}', True)


def supervisely(root: Path, folders: tuple[str, ...]) -> tuple[tuple, dict[str, Truth]]:
    """As its app "Export as masks" writes them."""
    truth = {f'a{i}.x': mask_of(i) for i in range(3)}
    for stem, mask in truth.items():
        put(root / 'ds0/img' / f'{stem}.jpg')
        (root / 'ds0/ann').mkdir(exist_ok=True)
        (root / 'ds0/ann' / f'{stem}.jpg.json').write_text('{}')
        if 'masks_machine' in folders:
            put(root / 'ds0/masks_machine' / f'{stem}.png', np.repeat(mask[..., None], 3, axis=2))
        if 'masks_instances' in folders:
            for number, (word, one) in enumerate(zip(('cat', 'cat', 'dog'), objects(mask), strict=True)):
                put(root / 'ds0/masks_instances' / stem / f'{word}_{number}.png', one)
        put(root / 'ds0/masks_human' / f'{stem}.png')
    (root / 'meta.json').write_text('{}')
    if 'masks_machine' in folders:
        (root / 'obj_class_to_machine_color.json').write_text(json.dumps({'cat': [1, 1, 1], 'dog': [2, 2, 2]}))
    return NAMES, {'train': {stem: truth[stem] for stem in ('a1.x', 'a2.x')}, 'val': {'a0.x': truth['a0.x']}}


def supervisely_classes(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return supervisely(root, ('masks_machine', 'masks_instances'))


def supervisely_objects(root: Path) -> tuple[tuple, dict[str, Truth]]:
    return supervisely(root, ('masks_instances',))


def dates(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Sub-folders on both sides, with a name in both of them that would be one without."""
    truth = {split: {} for split in ('train', 'val')}
    for split, masks in truth.items():
        for i, date in enumerate(('2024-05-01', '2024-05-02')):
            masks[f'{split}{i}'] = mask_of(i)
            put(root / split / 'images' / date / f'{split}{i}.jpg')
            put(root / split / 'masks' / date / f'{split}{i}.png', mask_of(i))
    (root / 'classes.txt').write_text('\n'.join(NAMES))
    return NAMES, truth


def fastai(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """codes.txt, labels/*_P.png, and valid.txt for validation; the rest is trained on."""
    truth = {f'00{i}': mask_of(i) for i in range(4)}
    for stem, mask in truth.items():
        put(root / 'images' / f'{stem}.png')
        put(root / 'labels' / f'{stem}_P.png', mask)
    (root / 'codes.txt').write_text('\n'.join(NAMES))
    (root / 'valid.txt').write_text('002.png\n')
    return NAMES, {'train': {stem: truth[stem] for stem in ('000', '001', '003')}, 'val': {'002': truth['002']}}


def pets(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """Oxford-IIIT Pet: masks in annotations/trimaps, beside other annotations."""
    truth = {f'pug_{i}': mask_of(i) for i in range(3)}
    for stem, mask in truth.items():
        put(root / 'images' / f'{stem}.jpg')
        put(root / 'annotations/trimaps' / f'{stem}.png', mask)
    (root / 'annotations/xmls').mkdir()
    (root / 'annotations/xmls/pug_0.xml').write_text('<annotation/>')
    (root / 'annotations/trainval.txt').write_text('pug_0 1 1 1\n')
    (root / 'classes.txt').write_text('\n'.join(NAMES))
    return NAMES, {'train': {stem: truth[stem] for stem in ('pug_1', 'pug_2')}, 'val': {'pug_0': truth['pug_0']}}


def one_folder_deeper(root: Path) -> tuple[tuple, dict[str, Truth]]:
    """ADE20K's folders in the folder of their archive: the splits stay what they are."""
    truth = {split: {f'{split}{i}': mask_of(i) for i in range(2)} for split in ('train', 'val')}
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for stem, mask in truth[split].items():
            put(root / 'archive/images' / folder / f'{stem}.jpg')
            put(root / 'archive/annotations' / folder / f'{stem}.png', mask)
    (root / 'archive/classes.txt').write_text('\n'.join(NAMES))
    return NAMES, truth


LAYOUTS = [roboflow, camvid_full, camvid_kaggle, camvid_segnet, camvid_datumaro, deepglobe_land, deepglobe_roads, cityscapes_ids,
           cityscapes_train_ids, cityscapes_datumaro, voc2012, voc_datumaro, cvat, labelme_3, labelme_5, bowl, numbered,
           numbered_masks, in_folders, in_folders_with_classes, with_classes, one_for_each_class, folders_of_classes,
           supervisely_classes, supervisely_objects, dates, fastai, pets, one_folder_deeper]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_perfect_predictions(layout: Callable, config: Callable, tmp_path: Path):
    classes, truth = layout(tmp_path / 'data')
    before = {path: path.read_bytes() for path in (tmp_path / 'data').rglob('*') if path.is_file()}
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), tuple(truth))
    check_paths(own, tuple(truth))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == classes
    assert own.model.decode_head.num_classes == len(classes)
    for split, masks in truth.items():
        assert evaluated(own, split, masks)['mIoU'] == 100
    assert before == {path: path.read_bytes() for path in (tmp_path / 'data').rglob('*') if path.is_file()}


@pytest.mark.parametrize(('layout', 'text'), [
    (deepglobe_land, 'masks beside their images; without masks, and not used: valid'),
    (deepglobe_land, 'class_dict.csv says which color is which class'),
    (deepglobe_roads, 'masks are of 0 and 255 with smoothed edges'),
    (cityscapes_ids, 'Cityscapes; without masks, and not used: leftImg8bit/test\n'),
    (cityscapes_ids, 'values of no class are ignored, as in gtFine: 0, 4, 29\n'),
    (camvid_segnet, 'values of no class are ignored, as in train.txt: 11\n'),
    (camvid_datumaro, 'images without a mask: 1 (empty); left out'),
    (voc2012, 'in the folder VOCdevkit/VOC2012'),
    (bowl, 'a folder for each image, with a mask for each object; without masks, and not used: stage1_test'),
    (bowl, 'masks of one object each are merged into one mask of 2 classes: background, object'),
    (with_classes, 'masks of one object each are merged into one mask of 3 classes: background, cat, dog'),
])
def test_what_is_said_about_accepted_ones(layout: Callable, text: str, config: Callable, tmp_path: Path,
                                          capsys: pytest.CaptureFixture):
    layout(tmp_path / 'data')
    use_data(config('semanticfpn_ravlt_t'), str(tmp_path / 'data'), ('train', 'val'))
    assert text in capsys.readouterr().out


def differing_classes(root: Path) -> None:
    roboflow(root)
    (root / 'valid/_classes.csv').write_text('Pixel Value, Class\n0, background\n1, dog\n2, cat\n')


def full_ade20k(root: Path) -> None:
    folder = root / 'images/ADE/training/urban/street'
    for name in ('ADE_train_00000001.jpg', 'ADE_train_00000001_seg.png', 'ADE_train_00000001_parts_1.png'):
        put(folder / name)
    put(folder / 'ADE_train_00000001/instance_000_ADE_train_00000001.png', mask_of(0, (0, 255)))
    (root / 'index_ade20k.pkl').write_bytes(b'')


def full_ade20k_2016(root: Path) -> None:
    for name in ('ADE_train_00000001.jpg', 'ADE_train_00000001_seg.png', 'ADE_train_00000001_parts_1.png'):
        put(root / 'images/training/a/abbey' / name)


def label_studio(root: Path) -> None:
    for i in range(3):
        put(root / 'images' / f'0a1b2c3d-photo{i}.jpg')
        put(root / 'masks' / f'task-{i + 1}-annotation-{i + 1}-by-1-tag-cat-0.png', mask_of(i, (0, 255)))


def cvat_without_images(root: Path) -> None:
    cvat(root)
    shutil.rmtree(root / 'JPEGImages')


def arrays_alone(root: Path) -> None:
    labelme_3(root)
    shutil.rmtree(root / 'SegmentationClassPNG')


def masks_in_folders(root: Path) -> None:
    for i, date in enumerate(('2024', '2025')):
        put(root / 'images' / f'a{i}.jpg')
        put(root / 'masks' / date / f'a{i}.png', mask_of(i))


def images_in_folders(root: Path) -> None:
    for i, date in enumerate(('2024', '2025')):
        put(root / 'images' / date / f'a{i}.jpg')
        put(root / 'masks' / f'a{i}.png', mask_of(i))


def colors_missing(root: Path) -> None:
    cvat(root)
    (root / 'labelmap.txt').write_text('background:0,0,0::\ncat:::\ndog\n')


def label_colors_missing(root: Path) -> None:
    camvid_full(root)
    (root / 'label_colors.txt').write_text('64 128 64\tAnimal\nBuilding\nCar\n')


def a_class_that_is_no_smoothed_edge(root: Path) -> None:
    """A few pixels of a class that the list lacks, of half the value of a color in it."""
    for i in range(3):
        pixels = painted(mask_of(i, (0, 1)), ((0, 0, 0), (255, 0, 0)))
        pixels[:2, :4] = (128, 0, 0)
        put(root / 'images' / f'a{i}.jpg')
        put(root / 'masks' / f'a{i}.png', pixels)
    (root / 'class_dict.csv').write_text('name,r,g,b\nbackground,0,0,0\ncat,255,0,0\n')


def pairs_in_several_folders(root: Path) -> None:
    camvid_segnet(root)
    put(root / 'more/a.png')
    put(root / 'moreannot/a.png', mask_of(0))
    (root / 'val.txt').write_text('train/train0.png trainannot/train0.png\nmore/a.png moreannot/a.png\n')


def masks_and_their_colors(root: Path) -> None:
    for i in range(3):
        put(root / 'images' / f'a{i}.jpg')
        put(root / 'masks' / f'a{i}_labelIds.png', mask_of(i, (0, 1)))
        put(root / 'masks' / f'a{i}_color.png', mask_of(i, (0, 255)))


def two_masks_of_one_meaning(root: Path) -> None:
    for i in range(3):
        put(root / 'images' / f'a{i}.jpg')
        for ending in ('_mask', '_seg'):
            put(root / 'masks' / f'a{i}{ending}.png', mask_of(i, (0, 255)))


def masks_of_missing_images(root: Path) -> None:
    """`a0_1.jpg` is lost, and its mask is no second one of `a0.jpg`."""
    for name in ('a0', 'a1', 'a0_1'):
        put(root / 'images' / f'{name}.jpg')
        put(root / 'masks' / f'{name}.png', mask_of(0, (0, 255)))
    (root / 'images/a0_1.jpg').unlink()


def one_of_several_is_no_object(root: Path) -> None:
    for i in range(5):
        put(root / 'images' / f'a{i}.jpg')
        for number, one in enumerate(objects(mask_of(i))):
            put(root / 'masks' / f'a{i}_{number}.png', one)
    put(root / 'masks/a4_1.png', mask_of(0, (0, 5, 9, 12)))


def evenly_spread_with_names(root: Path) -> None:
    for i in range(3):
        put(root / 'images' / f'a{i}.jpg')
        put(root / 'masks' / f'a{i}.png', mask_of(i, (0, 85, 170)))
    (root / 'classes.txt').write_text('\n'.join(NAMES))


def one_split_of_objects(root: Path) -> None:
    numbered(root)
    for path in (root / 'masks/val').iterdir():
        path.unlink()
    for i in range(2):
        put(root / f'masks/val/val_{i}.png', mask_of(i))


def cityscapes_without_masks(root: Path) -> None:
    cityscapes_ids(root)
    for path in root.glob('gtFine/*/*/*Ids.png'):
        path.unlink()


def several_voc_lists(root: Path) -> None:
    voc_datumaro(root)
    lists = root / 'ImageSets/Segmentation'
    (lists / 'train.txt').rename(lists / 'train_a.txt')
    shutil.copy(lists / 'train_a.txt', lists / 'train_b.txt')


@pytest.mark.parametrize(('layout', 'text'), [
    (differing_classes, r'/_classes.csv and .*valid/_classes.csv differ: masks of all splits must have the same classes'),
    (full_ade20k, r'holds the full ADE20K \(index_ade20k.pkl\).*: take ADEChallengeData2016'),
    (full_ade20k_2016, r'holds the full ADE20K \(ADE_train_00000001_seg.png\).*: take ADEChallengeData2016'),
    (label_studio, r'Label Studio exports them \(task-1-annotation-1-by-1-tag-cat-0.png\).* each to IMAGE_CLASS_NUMBER.png'),
    (cvat_without_images, 'holds masks in SegmentationClass and no images in JPEGImages: export with images'),
    (arrays_alone, r'holds masks as NumPy arrays \(a0.npy\): export them as PNG'),
    (masks_in_folders, 'images lie in no sub-folders, the masks in the sub-folders 2024, 2025; make both sides alike'),
    (images_in_folders, 'images lie in the sub-folders 2024, 2025, the masks in no sub-folders; make both sides alike'),
    (colors_missing, r'labelmap.txt is not a list .* \(without a color: cat, dog; each line is name:r,g,b::\)'),
    (label_colors_missing, r'label_colors.txt is not a list .* \(without a color: Building, Car; each line is r g b name\)'),
    (a_class_that_is_no_smoothed_edge, r'masks have colors that .*class_dict.csv does not list: \(128, 0, 0\)'),
    (pairs_in_several_folders, r'the pairs in .*val.txt lie in several folders .*more/\*.png, moreannot/\*.png, train/\*.png'),
    (masks_and_their_colors, r'images with several masks: 2 \(a1: a1_color.png, a1_labelIds.png'),
    (two_masks_of_one_meaning, r'images with several masks: 2 \(a1: a1_mask.png, a1_seg.png'),
    (masks_of_missing_images, r'images with several masks: 1 \(a0: a0.png, a0_1.png\)'),
    (one_of_several_is_no_object, r'have more than 0 and one other value: 1 \(a4\)'),
    (evenly_spread_with_names, r'values 85, 170, where 0 to 2 .*; if they are classes, lines like "85 NAME" in classes.txt'),
    (one_split_of_objects, 'the masks of train are of one object each, and those of val are not: make all alike'),
    (cityscapes_without_masks, r'gtFine has no masks that end in _gtFine_labelIds.png: unpack gtFine_trainvaltest.zip'),
    (several_voc_lists, 'several lists in .*ImageSets/Segmentation are for train: leave one'),
])
def test_what_is_refused(layout: Callable, text: str, config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    layout(tmp_path / 'data')
    with pytest.raises(UserError) as error:
        use_data(config('semanticfpn_ravlt_t'), str(tmp_path / 'data'), ('train', 'val'))
    printed = ' '.join((capsys.readouterr().out + str(error.value)).splitlines())
    assert re.search(text, printed), printed


def test_masks_of_one_class_as_jpeg(config: Callable, tmp_path: Path):
    """As Kvasir-SEG has them."""
    truth = {f'a{i}': mask_of(i, (0, 1)) for i in range(3)}
    for stem, mask in truth.items():
        put(tmp_path / 'data/images' / f'{stem}.jpg')
        put(tmp_path / 'data/masks' / f'{stem}.jpg', np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    assert evaluated(own, 'val', {'a0': truth['a0']})['mIoU'] == 100


def test_one_object_in_each_image_of_a_split(config: Callable, tmp_path: Path):
    """The other split shows that its masks are of one object each."""
    _, truth = numbered(tmp_path / 'data')
    for path in (tmp_path / 'data/masks/val').glob('*_[23].png'):
        path.unlink()
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    expected = {f'val_{i}': objects(mask_of(i))[0] // 255 for i in range(2)}
    assert evaluated(own, 'val', expected)['mIoU'] == 100
    assert evaluated(own, 'train', truth['train'])['mIoU'] == 100


def test_overlaps_are_counted(config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Of two classes at one place the later one is taken; objects of one class that overlap are no matter."""
    left, right = mask_of(0, (255, 0)), mask_of(0, (255, 255, 255, 0))
    for i in range(3):
        put(tmp_path / 'data/images' / f'a{i}.png')
        for name, mask in (('cat_1', left), ('cat_2', left), ('dog_1', right if i == 0 else mask_of(0, (0, 255)))):
            put(tmp_path / 'data/masks' / f'a{i}_{name}.png', mask)
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    assert f'note      val: {(left > 0).sum()} pixels are in masks of several classes; the later of background, cat, dog is ' \
           'taken. Images: 1 (a0)' in capsys.readouterr().out
    assert evaluated(own, 'val', {'a0': (right > 0) * np.uint8(2)})['mIoU'] == 100


def test_the_order_of_a_list_counts(config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Also that of the classes of weights; a class that neither knows is refused."""
    _, truth = with_classes(tmp_path / 'data')
    (tmp_path / 'data/classes.txt').write_text('dog\ncat\nbird')
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == ('background', 'dog', 'cat', 'bird')
    expected = {stem: np.array([0, 2, 1], np.uint8)[mask] for stem, mask in truth['val'].items()}
    assert evaluated(own, 'val', expected)['mIoU'] == 100
    (tmp_path / 'data/classes.txt').write_text('dog\nbird')
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('semanticfpn_ravlt_t'), str(tmp_path / 'data'), ('train', 'val'))
    assert 'names of mask files have classes that are unknown to' in capsys.readouterr().out


def test_a_city_in_two_archives(config: Callable, tmp_path: Path):
    """The two archives of Cityscapes unpacked into folders of their own."""
    _, truth = cityscapes_ids(tmp_path / 'data')
    for name in ('leftImg8bit', 'gtFine'):
        (tmp_path / 'data' / f'{name}_trainvaltest').mkdir()
        (tmp_path / 'data' / name).rename(tmp_path / 'data' / f'{name}_trainvaltest' / name)
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    assert evaluated(own, 'val', truth['val'])['mIoU'] == 100


def test_ade20k_in_the_folder_of_its_archive(config: Callable, tmp_path: Path):
    for split in ('training', 'validation'):
        for i in range(2):
            put(tmp_path / f'data/ADEChallengeData2016/images/{split}/ADE_{split}_{i}.jpg')
            put(tmp_path / f'data/ADEChallengeData2016/annotations/{split}/ADE_{split}_{i}.png', mask_of(i, (0, 1, 150)))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'data'), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    assert own.train_dataloader.dataset.type == 'ADE20KDataset'
    assert own.model.decode_head.num_classes == 150


def test_two_voc_years(config: Callable, tmp_path: Path):
    voc2012(tmp_path / 'data')
    shutil.copytree(tmp_path / 'data/VOCdevkit/VOC2012', tmp_path / 'data/VOCdevkit/VOC2007')
    with pytest.raises(UserError, match=r'VOC2007 and .*VOC2012 both hold images and masks: give one of them to --data'):
        use_data(config('semanticfpn_ravlt_t'), str(tmp_path / 'data'), ('train', 'val'))

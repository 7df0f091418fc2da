"""Small segmentation data sets in the layouts of tools and public data sets, with what their masks mean."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

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

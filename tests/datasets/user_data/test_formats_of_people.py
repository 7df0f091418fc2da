"""Annotations as they lie on disks: renamed, nested, mixed, linked, edited, half there; nothing is lost without a word."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import NAMES, SPLITS, createml, label_img, png, ultralytics, voc_devkit, write
from PIL import Image

from ralamala_mm.datasets import use_data
from ralamala_mm.datasets.coco import find_coco
from ralamala_mm.datasets.formats import convert_folder
from ralamala_mm.errors import UserError


def converted(root: Path, work: Path) -> tuple[dict[str, list[tuple]], list[str]]:
    """(class, box) of each object by split and name of its image, and what was noted, as 'level split: text'."""
    found = convert_folder(root, work, for_detector=True)
    by_name = {}
    for name, split in found.splits.items():
        content = json.loads(split.ann_file.read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        for image in content['images']:
            by_name[f'{name}/{image["file_name"]}'] = [(names[a['category_id']], tuple(a['bbox'])) for a in content['annotations']
                                                       if a['image_id'] == image['id']]
    return by_name, [f'{one.level} {one.split}: {one.text}' for one in found.problems]


def save_image(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (100, 50)).save(path)


def voc(name: str, left: int = 10, kind: str = 'cat') -> str:
    return (f'<annotation><filename>{name}</filename><object><name>{kind}</name><bndbox><xmin>{left}</xmin><ymin>5</ymin>'
            f'<xmax>{left + 20}</xmax><ymax>25</ymax></bndbox></object></annotation>')


def test_edited_lists_are_read_again(shapes_root: Path, tmp_path: Path):
    """Names of classes and lists of splits are no annotations, and what is converted depends on them."""
    root = tmp_path / 'yolo'
    label_img(shapes_root, root)
    before, _ = converted(root, tmp_path / 'work')
    for split in SPLITS:
        write(root / split / 'classes.txt', '\n'.join(reversed(NAMES)))
    after, _ = converted(root, tmp_path / 'work')
    swapped = dict(zip(NAMES, reversed(NAMES), strict=True))
    assert after == {image: [(swapped[name], box) for name, box in found] for image, found in before.items()}
    devkit = tmp_path / 'voc'
    voc_devkit(shapes_root, devkit)
    lists = devkit / 'VOC2012/ImageSets/Main'
    train, val = (lists / 'train.txt').read_text(), (lists / 'val.txt').read_text()
    converted(devkit, tmp_path / 'work2')
    write(lists / 'train.txt', val)
    write(lists / 'val.txt', train)
    found, _ = converted(devkit, tmp_path / 'work2')
    assert all(('val/' in name) == ('/train_' in name) for name in found)


def test_an_edit_with_the_old_time(shapes_root: Path, tmp_path: Path):
    root = tmp_path / 'yolo'
    ultralytics(shapes_root, root)
    converted(root, tmp_path / 'work')
    label = root / 'labels/train/00000.txt'
    state, text = label.stat(), label.read_text()
    label.write_text(str((int(text[0]) + 1) % 4) + text[1:])
    os.utime(label, ns=(state.st_atime_ns, state.st_mtime_ns))
    found, _ = converted(root, tmp_path / 'work')
    assert found['train/images/train/00000.png'][0][0] == NAMES[(int(text[0]) + 1) % 4]


def test_videos_keep_to_their_folders(tmp_path: Path):
    for number, left in ((1, 10), (2, 50)):
        save_image(*(tmp_path / f'data/v{number}/images/frame_00000{i}.png' for i in range(2)))
        write(tmp_path / f'data/v{number}/annotations.xml', '<annotations><meta><size>2</size><original_size><width>100</width>'
              f'<height>50</height></original_size></meta><track label="cat"><box frame="1" outside="0" xtl="{left}" ytl="5" '
              f'xbr="{left + 20}" ybr="25"/></track></annotations>')
    found, _ = converted(tmp_path / 'data', tmp_path / 'work')
    assert found == {'all/v1/images/frame_000000.png': [], 'all/v1/images/frame_000001.png': [('cat', (10, 5, 20, 20))],
                     'all/v2/images/frame_000000.png': [], 'all/v2/images/frame_000001.png': [('cat', (50, 5, 20, 20))]}
    for i, path in enumerate(sorted((tmp_path / 'data/v2/images').iterdir()), 1):
        path.rename(path.with_name(f'img_{i:04}.png'))  # a sequence of images, whose first is frame 0
    found, _ = converted(tmp_path / 'data', tmp_path / 'work')
    assert found['all/v2/images/img_0002.png'] == [('cat', (50, 5, 20, 20))]


def test_masks_of_one_name_in_two_splits(tmp_path: Path):
    root = tmp_path / 'voc'
    for split, left in (('train', 10), ('val', 50)):
        save_image(root / split / 'JPEGImages/0.png')
        write(root / split / 'Annotations/0.xml', voc('0.png', left))
        mask = np.zeros((50, 100), np.uint8)
        mask[5:25, left:left + 20] = 1
        write(root / split / 'SegmentationObject/0.png', png(mask))
    found = convert_folder(root, tmp_path / 'work', for_detector=True)
    areas = [json.loads(split.ann_file.read_text())['annotations'][0]['area'] for split in found.splits.values()]
    assert areas == [400, 400]
    assert found.problems == []


@pytest.mark.parametrize(('line', 'name'), [
    ('cam1/a', 'cam1/a'), ('img 1', 'img 1'), ('"b" 1', 'b'), ('b.png', 'b'), ('b -1', 'b')])
def test_names_in_lists_of_voc(line: str, name: str, tmp_path: Path):
    root = tmp_path / 'voc'
    save_image(root / f'JPEGImages/{name}.png', root / 'JPEGImages/other.png')
    write(root / f'Annotations/{name}.xml', voc(f'{Path(name).name}.png'))
    write(root / 'Annotations/other.xml', voc('other.png'))
    write(root / 'ImageSets/Main/train.txt', f'\ufeff{line}\nother\n')
    found, noted = converted(root, tmp_path / 'work')
    assert found[f'train/JPEGImages/{name}.png'] == [('cat', (10, 5, 20, 20))]
    assert noted == []


def test_two_years_of_voc(tmp_path: Path):
    for year in ('VOC2007', 'VOC2012'):
        save_image(tmp_path / f'kit/{year}/JPEGImages/{year}.png')
        write(tmp_path / f'kit/{year}/Annotations/{year}.xml', voc(f'{year}.png'))
        write(tmp_path / f'kit/{year}/ImageSets/Main/train.txt', year)
    with pytest.raises(UserError, match='both hold lists: give one of their data sets to --data'):
        converted(tmp_path / 'kit', tmp_path / 'work')


def test_renamed_images(tmp_path: Path):
    """The image that bears the annotation's name is meant, whatever stands in the file."""
    save_image(tmp_path / 'data/1.png', tmp_path / 'data/2.png')
    write(tmp_path / 'data/1.xml', voc('2.png', 10))
    write(tmp_path / 'data/2.xml', voc('1.png', 50))
    found, noted = converted(tmp_path / 'data', tmp_path / 'work')
    assert found == {'all/1.png': [('cat', (10, 5, 20, 20))], 'all/2.png': [('cat', (50, 5, 20, 20))]}
    told = 'corrected all: annotations that name another image than the one beside them that bears their name: 2 (1.xml: 2.png'
    assert told in noted[0]


@pytest.mark.parametrize('kind', ['createml', 'via'])
def test_more_files_than_are_looked_into(kind: str, tmp_path: Path):
    for i in range(60):
        save_image(tmp_path / f'data/{i:02}.png')
        box = dict(x=20, y=15, width=20, height=20)
        region = dict(shape_attributes=dict(box, name='rect'), region_attributes=dict(kind='cat'))
        write(tmp_path / f'data/{i:02}.json', {
            'createml': [dict(image=f'{i:02}.png', annotations=[dict(label='cat', coordinates=box)])],
            'via': dict(a=dict(filename=f'{i:02}.png', regions=[region]))}[kind])
    assert len(converted(tmp_path / 'data', tmp_path / 'work')[0]) == 60


def test_annotations_in_two_formats(shapes_root: Path, tmp_path: Path):
    """That of more images counts, and the other is named."""
    root = tmp_path / 'data'
    ultralytics(shapes_root, root)
    write(root / 'images/train/00000.xml', voc('00000.png'))
    found, noted = converted(root, tmp_path / 'work')
    assert len(found) == 16
    assert 'note all: annotations in another format: 1 (Pascal VOC format, 1 images); not used' in noted


def test_a_yaml_of_two_splits_in_a_folder_called_like_one(tmp_path: Path):
    root = tmp_path / 'data'
    for split in SPLITS:
        save_image(root / f'train_v2/images/{split}/{split}.png')
        write(root / f'train_v2/labels/{split}/{split}.txt', '0 0.5 0.5 0.2 0.4')
    write(root / 'train_v2/data.yaml', 'train: images/train\nval: images/val\nnames: [no]\n')
    found, _ = converted(root, tmp_path / 'work')
    assert [(name.split('/')[0], objects[0][0]) for name, objects in found.items()] == [('train', 'no'), ('val', 'no')]


def test_links(shapes_root: Path, tmp_path: Path):
    """In a circle, to the same folder, to nowhere; each image counts once."""
    root = tmp_path / 'data'
    ultralytics(shapes_root, root)
    expected, _ = converted(root, tmp_path / 'work')
    for name in ('loop', 'images/loop', 'latest'):
        (root / name).symlink_to(root / 'images' if name == 'latest' else root)
    for name in ('gone.json', 'gone.xml', 'gone.txt', 'images/train/gone.png'):
        (root / name).symlink_to(tmp_path / 'nowhere')
    (root / 'folder.json').mkdir()
    os.mkfifo(root / 'pipe.json')
    assert len(converted(root, tmp_path / 'work')[0]) == len(expected)
    assert find_coco(root)[1] == {}


def test_a_work_directory_in_the_data(shapes_root: Path, config: Callable, capsys: pytest.CaptureFixture):
    """Its corrected copies and masks are no data."""
    root = Path(config('retinanet_ravlt_t').work_dir).parent / 'data'
    ultralytics(shapes_root, root)
    for path in (root / 'labels/val').iterdir():
        path.unlink()
    (root / 'data.yaml').unlink()
    for _ in range(2):
        own = config('retinanet_ravlt_t')
        own.work_dir = str(root / 'work')
        use_data(own, str(root), SPLITS)
        assert 'YOLO format, converted' in capsys.readouterr().out
        write(root / 'labels/train/00001.txt', '0 0.5 0.5 0.2 0.4')


def test_images_that_no_annotation_is_about(shapes_root: Path, tmp_path: Path):
    root = tmp_path / 'data'
    createml(shapes_root, root)
    save_image(root / 'valid/extra.png')
    assert 'note all: images that no annotation is about: 1 (valid/extra.png); not used' in converted(root, tmp_path / 'work')[1]


def test_many_images_that_are_gone(shapes_root: Path, tmp_path: Path):
    root = tmp_path / 'data'
    createml(shapes_root, root)
    for i in range(5):
        (root / f'train/{i:05}.png').unlink()
    assert 'ERROR train: images without a file: 5 (00000.png, 00001.png, 00002.png and 2 more); too many to be left out' in (
        converted(root, tmp_path / 'work')[1])


@pytest.mark.parametrize('folder', ['images', 'images/train', 'labels'])
def test_a_folder_too_deep(folder: str, shapes_root: Path, config: Callable, tmp_path: Path):
    ultralytics(shapes_root, tmp_path / 'data')
    with pytest.raises(UserError, match=rf'it holds a part of a data set, whose data.yaml is in {tmp_path}/data: give that'):
        use_data(config('retinanet_ravlt_t'), str(tmp_path / 'data' / folder), SPLITS)


def cvat(shapes: str, size: str = 'width="100" height="50"') -> str:
    return f'<annotations><image name="a.png" {size}>{shapes}</image></annotations>'


HOSTILE = {  # a file, what it holds, and what is said of it
    'a mask below its image': ('annotations.xml', cvat(
        '<mask label="c" left="0" top="55" width="2" height="40" rle="0,80"/>'), 'without a pixel'),
    'a huge image with a mask': ('annotations.xml', cvat(
        '<mask label="c" left="0" top="0" width="1" height="1" rle="0,1"/>', 'width="100000" height="100000"'), 'too many'),
    'a polygon of a point in a group': ('annotations.xml', cvat(
        '<polygon label="c" group_id="1" points="1,1"/><mask label="c" group_id="1" left="0" top="0" width="1" height="1" '
        'rle="0,1"/>'), 'fewer than three points'),
    'a width beyond numbers': ('a.json', '{"imagePath": "a.png", "imageWidth": 1e308, "imageHeight": 1e308, "shapes": []}',
                               'imageWidth is 1e+308, not a number'),
    'a short row': ('train-annotations-bbox.csv', 'ImageID,LabelName,XMin,XMax,YMin,YMax\na\n', 'has a line of another length'),
    'names within names': ('data.yaml', 'names: [[a, b]]\nnc: 1\n', 'has names that are no texts'),
    'broken YAML': ('data.yaml', 'names: [a\n\tb', 'is not valid YAML'),
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_what_cannot_be_meant(kind: str, tmp_path: Path):
    name, content, told = HOSTILE[kind]
    save_image(tmp_path / 'data/a.png', tmp_path / 'data/b.png')
    write(tmp_path / 'data' / name, content)
    try:
        noted = '\n'.join(converted(tmp_path / 'data', tmp_path / 'work')[1])
    except UserError as error:
        noted = str(error)
    assert told in noted


NOT_PAINTED = {
    'images outside of the folder: 1': lambda c, elsewhere: c['images'][0].update(file_name=str(elsewhere)),
    'annotations of images or categories that are not listed: 2': lambda c, _: [
        a.update(category_id=99) for a in c['annotations'][:2]],
    'that are not listed: 1': lambda c, _: c['annotations'][0].update(image_id=99),
    'outlines without a pixel: 2': lambda c, _: [a.update(segmentation=[[1, 1, 2, 2]]) for a in c['annotations'][:2]]}


@pytest.mark.parametrize('told', NOT_PAINTED)
def test_what_is_not_painted_is_told(told: str, config: Callable, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (coco / 'semantic').rename(tmp_path / 'semantic')
    save_image(tmp_path / 'outside/a.png')
    path = coco / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    NOT_PAINTED[told](content, tmp_path / 'outside/a.png')
    write(path, content)
    if told.startswith('images outside'):
        with pytest.raises(UserError, match='marked ERROR'):
            use_data(config('semanticfpn_ravlt_t'), str(coco), SPLITS)
    else:
        use_data(config('semanticfpn_ravlt_t'), str(coco), SPLITS)
    assert told in capsys.readouterr().out
    assert [file.name for file in (tmp_path / 'outside').iterdir()] == ['a.png']


def test_one_split_of_two_for_a_segmentor(config: Callable, coco: Path, tmp_path: Path):
    (coco / 'semantic').rename(tmp_path / 'semantic')
    (coco / 'annotations/instances_train.json').unlink()
    with pytest.raises(UserError, match=r'has no data for train and val: looked for images with masks .*; found val only'):
        use_data(config('semanticfpn_ravlt_t'), str(coco), SPLITS)


def test_subsets_of_cvat_called_train_and_trainval(tmp_path: Path):
    """Nothing is trained on twice, and what is left out is named."""
    save_image(tmp_path / 'data/images/Train/a.png', tmp_path / 'data/images/Trainval/b.png')
    images = ''.join(f'<image name="{name}.png" subset="{subset}" width="100" height="50"><box label="c" xtl="1" ytl="1" xbr="9" '
                     'ybr="9"/></image>' for name, subset in (('a', 'Train'), ('b', 'Trainval')))
    write(tmp_path / 'data/annotations.xml', f'<annotations>{images}</annotations>')
    found, noted = converted(tmp_path / 'data', tmp_path / 'work')
    assert list(found) == ['train/images/Train/a.png']
    assert 'note all: annotations in the folder of no split: 1 (b.png); not used' in noted

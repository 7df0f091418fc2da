"""Annotations of other formats than COCO's: each is converted whole, and perfect predictions score 1.0."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import EXPORTS, NAMES, SPLITS, WITH_MASKS, createml, ultralytics, voc_beside, write
from mmengine.registry import DATASETS
from perfect import in_file, objects, perfect, trained_on
from PIL import Image
from pycocotools import mask as masks

from ralamala_mm.datasets import use_data
from ralamala_mm.datasets.formats import convert_folder
from ralamala_mm.datasets.user_data import inspect_data
from ralamala_mm.errors import UserError


def state(root: Path) -> dict[str, str]:
    """Every file with its content."""
    return {str(path.relative_to(root)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob('*')) if path.is_file()}


def truth(shapes: Path) -> dict[str, list[tuple]]:
    """The objects of the validation images, by the names that exports give them."""
    found = objects(shapes, 'val')
    return found | {f'val_{name}': these for name, these in found.items()}


@pytest.mark.parametrize(('export', 'layout'), EXPORTS.items())
def test_each_format_is_used_whole(export: Callable, layout: str, config: Callable, shapes_root: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture):
    root = tmp_path / 'export'
    export(shapes_root, root)
    before = state(root)
    own = config('maskrcnn_ravlt_t' if export in WITH_MASKS else 'retinanet_ravlt_t')
    use_data(own, str(root), SPLITS)
    printed = capsys.readouterr().out
    assert f'Data in {root}: {layout}, converted to COCO\'s in {tmp_path}/work/data/converted' in printed
    scores = perfect(own, truth(shapes_root))
    assert scores['coco/bbox_mAP'] == 1
    assert scores.get('coco/segm_mAP', 1) == 1
    assert trained_on(own) == in_file(shapes_root, 'train')
    assert state(root) == before


@pytest.mark.parametrize('export', WITH_MASKS)
def test_masks_are_the_exported_ones(export: Callable, config: Callable, shapes_root: Path, tmp_path: Path):
    """Pixel by pixel, for a detector and for a segmentor, whose masks show the same objects."""
    root = tmp_path / 'export'
    export(shapes_root, root)
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(root), SPLITS)
    import mmseg.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(dict(own.val_dataloader.dataset, pipeline=[]))
    classes = dataset.metainfo['classes']
    assert set(classes) >= set(NAMES)
    assert len(dataset) == len(objects(shapes_root, 'val'))
    for info in map(dataset.get_data_info, range(len(dataset))):
        mask, present = np.asarray(Image.open(info['seg_map_path'])), truth(shapes_root)[Path(info['img_path']).name]
        covered = np.max([area for _, _, area in present], axis=0).astype(bool)
        assert (np.isin(mask, [classes.index(kind) for kind in NAMES if kind in classes]) == covered).all()
        for kind, _, area in present:  # visible but where smaller ones lie over it
            assert (mask[area.astype(bool)] == classes.index(kind)).mean() > 0.5


def converted(root: Path, work: Path) -> tuple[dict[str, list[tuple]], list[str]]:
    """(class, box, segmentation) of each object by the name of its image, and what was noted, as 'level split: text'."""
    found = convert_folder(root, work, for_detector=True)
    by_name = {}
    for split in found.splits.values():
        content = json.loads(split.ann_file.read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        for image in content['images']:
            by_name[Path(image['file_name']).name] = [
                (names[a['category_id']], tuple(a['bbox']), a.get('segmentation')) for a in content['annotations']
                if a['image_id'] == image['id']]
    return by_name, [f'{one.level} {one.split}: {one.text}' for one in found.problems]


def save_image(path: Path, size: tuple[int, int] = (100, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)


YOLO_LINES = {
    'a box': ('1 0.5 0.5 0.2 0.4', [('dog', (40, 15, 20, 20), None)], ''),
    'a class as 1.0, in scientific notation': ('1.0 5e-1 0.5 2E-1 0.4', [('dog', (40, 15, 20, 20), None)], ''),
    'a byte order mark, and lines as on Windows': ('\ufeff1 0.5 0.5 0.2 0.4\r\n\r\n', [('dog', (40, 15, 20, 20), None)], ''),
    'a polygon': ('0 0.1 0.1 0.2 0.1 0.2 0.4', [('cat', (10, 5, 10, 15), [[10, 5, 20, 5, 20, 20]])], ''),
    'a score': ('1 0.5 0.5 0.2 0.4 0.93', [('dog', (40, 15, 20, 20), None)], 'note train: objects with a score, as predictions'),
    'pixels': ('1 40 15 20 20', [], 'ERROR train: labels with values beyond 0 to 1: 1 (a.txt line 1)'),
    'an unknown class': ('2 0.5 0.5 0.2 0.4', None, 'images/train/a.png: a.txt line 1: class 2 is not one of 0 to 1'),
    'no class': ('dog 0.5 0.5 0.2 0.4', None, "a.txt line 1: value 1 is 'dog', not a number"),
    'too few values': ('0 0.5 0.5', None, 'a.txt line 1: 3 values; a box has five, a polygon seven or more'),
}


@pytest.mark.parametrize('kind', YOLO_LINES)
def test_lines_of_yolo(kind: str, tmp_path: Path):
    line, wanted, told = YOLO_LINES[kind]
    root = tmp_path / 'yolo'
    save_image(root / 'images/train/a.png')
    save_image(root / 'images/train/b.png')
    write(root / 'labels/train/a.txt', line)
    write(root / 'labels/train/b.txt', '0 0.5 0.5 0.2 0.4')
    write(root / 'data.yaml', 'train: images/train\nnames: [cat, dog]\n')
    found, noted = converted(root, tmp_path / 'work')
    assert told in '\n'.join(noted)
    if wanted is None:
        assert 'a.png' not in found
    else:
        assert [(name, pytest.approx(box), outline) for name, box, outline in wanted] == found['a.png']
    assert found['b.png'] == [('cat', pytest.approx((40, 15, 20, 20)), None)]


def test_what_yolo_does_not_use_is_noted(tmp_path: Path):
    root = tmp_path / 'yolo'
    for name in ('train/a', 'train/b', 'other/c'):
        save_image(root / f'images/{name}.png')
    for name in ('train/a', 'train/gone', 'other/c'):
        write(root / f'labels/{name}.txt', '0 0.5 0.5 0.2 0.4 2 0.3 0.3')
    write(root / 'data.yaml', 'train: images/train\ntest: ../test/images\nkpt_shape: [1, 3]\nnames: {0: cat}\n')
    found, noted = converted(root, tmp_path / 'work')
    assert found == {'a.png': [('cat', pytest.approx((40, 15, 20, 20)), None)], 'b.png': []}
    assert noted == [
        'note all: images that are named for a split and not there: 1 (../test/images); left out',
        'note all: labeled images that no split lists: 1 (images/other/c.png); not used',
        'note all: label files without an image: 1 (labels/train/gone.txt); not used',
        'note all: images without a label file: 1 (images/train/b.png); taken as images without objects']


def test_splits_that_were_exported_apart(tmp_path: Path):
    """Label Studio numbers the classes that are used, so that 0 is another one in each export."""
    root = tmp_path / 'yolo'
    for split, name in (('train', 'cat'), ('val', 'dog')):
        save_image(root / f'{split}/images/{split}.png')
        write(root / f'{split}/labels/{split}.txt', '0 0.5 0.5 0.2 0.4')
        write(root / f'{split}/classes.txt', f'{name}\n')
    found, _ = converted(root, tmp_path / 'work')
    assert {image: entries[0][0] for image, entries in found.items()} == {'train.png': 'cat', 'val.png': 'dog'}


@pytest.mark.parametrize(('text', 'told'), [
    ('train: images/train\nnames: cat\n', 'names that are neither a list nor numbers with names'),
    ('train: images/train\nnames: {a: cat}\n', 'numbers its names with what is no number'),
    ('train: images/train\nnames: [cat, cat]\n', 'has no names, or one twice')])
def test_names_that_yolo_cannot_have(text: str, told: str, tmp_path: Path):
    save_image(tmp_path / 'yolo/images/train/a.png')
    write(tmp_path / 'yolo/data.yaml', text)
    with pytest.raises(UserError, match=told):
        convert_folder(tmp_path / 'yolo', tmp_path / 'work', for_detector=True)


def test_lists_of_yolo_cannot_lead_out_of_the_folder(tmp_path: Path):
    root = tmp_path / 'yolo'
    save_image(root / 'images/a.png')
    save_image(tmp_path / 'elsewhere/b.png')
    write(root / 'labels/a.txt', '0 0.5 0.5 0.2 0.4')
    write(root / 'data.yaml', f'train: images\nval: {tmp_path}/elsewhere\nnames: [cat]\n')
    found, noted = converted(root, tmp_path / 'work')
    assert list(found) == ['a.png']
    assert f'images that are named for a split and not there: 1 ({tmp_path}/elsewhere)' in noted[0]


def voc(entries: str, size: str = '') -> str:
    return f'<annotation><filename>a.png</filename>{size}{entries}</annotation>'


def box_of(name: str, edges: tuple[object, ...], rest: str = '') -> str:
    corners = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), edges, strict=True))
    return f'<object><name>{name}</name><bndbox>{corners}</bndbox>{rest}</object>'


VOC_FILES = {
    'corners in any order, and no size': (voc(box_of('cat', (30, 25, 10, 5))), [('cat', (10, 5, 20, 20), None)], ''),
    'difficult': (voc(box_of('cat', (1.5, 2, 11.5, 12), '<difficult>1</difficult>')), [('cat', (1.5, 2, 10, 10), None)],
                  'note all: objects marked difficult: 1 (a.xml); used as all others'),
    'a polygon': (voc(box_of('cat', (0, 0, 9, 9), '<polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>2</y2><x3>9</x3><y3>8</y3>'
                             '</polygon>')), [('cat', (1, 2, 8, 6), [[1, 2, 9, 2, 9, 8]])], ''),
    'a rotated box': (voc('<object><name>cat</name><robndbox><cx>50</cx><cy>25</cy><w>20</w><h>10</h><angle>1.5707963</angle>'
                          '</robndbox></object>'), [('cat', (45, 15, 10, 20), ...)], ''),
    'a document type': ('<!DOCTYPE a [<!ENTITY b "c">]>' + voc(box_of('cat', (0, 0, 9, 9))), None, 'a.xml: has a document type'),
    'a box of text': (voc(box_of('cat', ('left', 0, 9, 9))), None, "a.xml: xmin is 'left', not a number"),
    'no box': (voc('<object><name>cat</name></object>'), None, 'a.xml: an object cat without a box'),
    'cut short': (voc(box_of('cat', (0, 0, 9, 9)))[:-30], None, 'a.xml: is not valid XML'),
}


@pytest.mark.parametrize('kind', VOC_FILES)
def test_files_of_voc(kind: str, tmp_path: Path):
    text, wanted, told = VOC_FILES[kind]
    root = tmp_path / 'voc'
    for name in ('a', 'b', 'c'):
        save_image(root / f'{name}.png')
    write(root / 'a.xml', text)
    write(root / 'b.xml', voc(box_of('cat', (0, 0, 9, 9))).replace('a.png', 'C:\\images\\b.png'))
    found, noted = converted(root, tmp_path / 'work')
    assert told in '\n'.join(noted)
    assert 'note all: images without an XML file: 1 (c.png); not used, as nothing says that they show no objects' in noted
    assert found['b.png'] == [('cat', (0, 0, 9, 9), None)]
    if wanted is None:
        assert 'a.png' not in found
    else:
        for (name, box, outline), (got, got_box, got_outline) in zip(wanted, found['a.png'], strict=True):
            assert (name, pytest.approx(box, abs=1e-4)) == (got, got_box)
            assert outline is ... or outline == got_outline


def shape(label: str, kind: str, points: list, **more: object) -> dict:
    return dict(label=label, shape_type=kind, points=points, **more)


def test_shapes_of_labelme(tmp_path: Path):
    root = tmp_path / 'labelme'
    save_image(root / 'a.png')
    left, right = [[1, 1], [5, 1], [5, 5]], [[60, 1], [65, 1], [65, 5]]
    write(root / 'a.json', dict(imagePath='a.png', imageHeight=None, imageWidth=None, shapes=[
        shape('cat', 'polygon', left, group_id=7), shape('cat', 'polygon', right, group_id=7),
        shape('dog', 'polygon', left, group_id=7),
        shape('cat', 'circle', [[50, 25], [60, 25]]), shape('cat', 'rectangle', [[30, 40], [20, 10]]),
        shape('cat', 'linestrip', [[1, 1], [2, 2]]), shape('_background_', 'polygon', left)]))
    found, noted = converted(root, tmp_path / 'work')
    names, boxes, outlines = zip(*found['a.png'], strict=True)
    assert names == ('cat', 'dog', 'cat', 'cat')
    assert boxes == (pytest.approx((1, 1, 64, 4)), (1, 1, 4, 4), pytest.approx((40, 15, 20, 20), abs=0.1), (20, 10, 10, 30))
    assert outlines[0] == [[1, 1, 5, 1, 5, 5], [60, 1, 65, 1, 65, 5]]
    assert noted == ['note all: lines and points, which have no area: 1 (linestrip of a.json); not used',
                     'note all: shapes labeled __ignore__ or _background_: 1 (a.json); not used',
                     'note all: rectangles among other outlines: 1 (cat); taken as the outlines of their objects']


def test_rectangles_alone_are_boxes(tmp_path: Path):
    save_image(tmp_path / 'labelme/a.png')
    write(tmp_path / 'labelme/a.json', dict(imagePath='a.png', shapes=[shape('cat', 'rectangle', [[20, 10], [30, 40]])]))
    assert converted(tmp_path / 'labelme', tmp_path / 'work') == ({'a.png': [('cat', (20, 10, 10, 30), None)]}, [])


def test_shapes_of_supervisely(tmp_path: Path):
    """Rectangles include their last pixel; holes of polygons stay holes."""
    root = tmp_path / 'project'
    save_image(root / 'ds/img/a.png')
    write(root / 'meta.json', dict(classes=[dict(title='dog', shape='polygon'), dict(title='cat', shape='rectangle')]))
    square, hole = [[10, 10], [30, 10], [30, 30], [10, 30]], [[15, 15], [25, 15], [25, 25], [15, 25]]
    write(root / 'ds/ann/a.png.json', dict(size=dict(height=50, width=100), objects=[
        dict(classTitle='cat', geometryType='rectangle', points=dict(exterior=[[40, 5], [49, 24]], interior=[])),
        dict(classTitle='dog', geometryType='polygon', points=dict(exterior=square, interior=[hole]))]))
    found, _ = converted(root, tmp_path / 'work')
    (name, box, _), (hollow, _, outline) = found['a.png']
    assert (name, box, hollow) == ('cat', (40, 5, 10, 20), 'dog')
    mask = masks.decode(outline)
    assert (mask[20, 20], mask[12, 12], mask.sum()) == (0, 1, 20 * 20 - 10 * 10)


def test_shapes_and_tracks_of_cvat(tmp_path: Path):
    root = tmp_path / 'video'
    for i in range(3):
        save_image(root / f'images/frame_00000{i}.png')
    write(root / 'annotations.xml', '<annotations><meta><original_size><width>100</width><height>50</height></original_size>'
          '</meta><track id="0" label="cat"><box frame="0" outside="0" xtl="40" ytl="20" xbr="60" ybr="30" rotation="90.0"/>'
          '<box frame="2" outside="1" xtl="1" ytl="1" xbr="9" ybr="9"/></track><track id="1" label="dog">'
          '<ellipse frame="1" outside="0" cx="50" cy="25" rx="20" ry="10" rotation="0"/><points frame="1" points="1,1"/></track>'
          '<track id="2" label="dog"><box frame="7" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/></track></annotations>')
    found, noted = converted(root, tmp_path / 'work')
    assert [(name, pytest.approx(box, abs=0.1)) for name, box in (('cat', (45, 15, 10, 20)),)] == [
        entry[:2] for entry in found['frame_000000.png']]
    assert [(name, pytest.approx(box, abs=0.1)) for name, box in (('dog', (30, 15, 40, 20)),)] == [
        entry[:2] for entry in found['frame_000001.png']]
    assert found['frame_000002.png'] == []
    assert 'note all: frames of a video without an image: 1 (frame 7); left out: CVAT exports them with "save images"' in noted


def test_groups_of_open_images_are_crowds(tmp_path: Path):
    root = tmp_path / 'oi'
    save_image(root / 'train/a.jpg')
    save_image(root / 'train/b.jpg')
    write(root / 'train-annotations-bbox.csv', 'ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\r\na,/m/1,0.1,0.2,0.2,0.4,1\r\n'
          'a,/m/2,0.5,0.6,0.2,0.4,0\r\n')
    write(root / 'class-descriptions.csv', '/m/1,Cat\r\n')
    found = convert_folder(root, tmp_path / 'work', for_detector=True)
    content = json.loads(found.splits['train'].ann_file.read_text())
    assert [category['name'] for category in content['categories']] == ['Cat', '/m/2']
    assert [a['iscrowd'] for a in content['annotations']] == [1, 0]
    assert [pytest.approx(a['bbox']) for a in content['annotations']] == [[10, 10, 10, 10], [50, 10, 10, 10]]
    assert 'labels that no file of class descriptions names: 1 (/m/2); called by their codes' in found.problems[0].text


def test_lvis(config: Callable, coco: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    for split in SPLITS:
        path = coco / f'annotations/instances_{split}.json'
        content = json.loads(path.read_text())
        for image in content['images']:
            image.update(coco_url=f'http://images.cocodataset.org/{split}/{image.pop("file_name")}', neg_category_ids=[2],
                         not_exhaustive_category_ids=[])
        for annotation in content['annotations']:
            del annotation['iscrowd']
        path.unlink()
        write(coco / f'annotations/lvis_v1_{split}.json', content)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS)
    assert 'images as LVIS lists them, by address and with some of the classes annotated: 12' in capsys.readouterr().out
    assert perfect(own, truth(shapes_root))['coco/bbox_mAP'] == 1


def test_a_conversion_is_kept_until_the_files_change(shapes_root: Path, tmp_path: Path):
    root, work = tmp_path / 'export', tmp_path / 'work'
    ultralytics(shapes_root, root)
    files = [split.ann_file for split in convert_folder(root, work, for_detector=True).splits.values()]
    before = [file.stat().st_mtime_ns for file in files]
    convert_folder(root, work, for_detector=True)
    assert [file.stat().st_mtime_ns for file in files] == before
    files[1].unlink()  # as after an interruption
    convert_folder(root, work, for_detector=True)
    assert files[1].is_file()
    count = len(json.loads(files[0].read_text())['annotations'])
    label = root / 'labels/train/00000.txt'
    label.write_text(f'{label.read_text()}0 0.5 0.5 0.1 0.1\n')
    convert_folder(root, work, for_detector=True)
    assert len(json.loads(files[0].read_text())['annotations']) == count + 1


def test_annotations_without_their_images(shapes_root: Path, config: Callable, tmp_path: Path):
    root = tmp_path / 'export'
    createml(shapes_root, root)
    for path in root.rglob('*.png'):
        path.unlink()
    with pytest.raises(UserError, match=r'CreateML format, and train has images without a file: 12 \(00000.png, .*\): put them'):
        use_data(config('retinanet_ravlt_t'), str(root), SPLITS)


def test_what_cannot_be_read_is_reported_whole(shapes_root: Path, config: Callable, tmp_path: Path,
                                               capsys: pytest.CaptureFixture):
    root = tmp_path / 'export'
    voc_beside(shapes_root, root)
    for name in ('00000', '00002'):
        (root / f'train/{name}.xml').write_text('<annotation><object>')
    with pytest.raises(UserError, match='cannot be used as it is: 1 kind of defect'):
        use_data(config('retinanet_ravlt_t'), str(root), SPLITS)
    assert 'ERROR     train: annotations that cannot be read: 2 (train/00000.xml: is not valid XML (' in capsys.readouterr().out
    report = inspect_data(config('retinanet_ravlt_t'), str(root), SPLITS, show=False)
    assert [one.files for one in report.errors] == [('train/00000.xml', 'train/00002.xml')]

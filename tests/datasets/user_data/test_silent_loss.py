"""Every data set that is accepted is used whole: perfect predictions score 1.0, or what is not used is counted and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from perfect import in_file, mask_of, objects, perfect, trained_on
from PIL import Image

from ralamala_mm.datasets import use_data
from ralamala_mm.errors import UserError

Change = Callable[[dict], object]
SPLITS = ('train', 'val')


def edit(root: Path, change: Change, splits: tuple[str, ...] = SPLITS) -> None:
    for split in splits:
        path = root / f'annotations/instances_{split}.json'
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def each(**changes: object) -> Change:
    """Sets entries of every annotation; a function is called with the annotation and its position."""
    def change(content: dict) -> None:
        for i, annotation in enumerate(content['annotations']):
            annotation.update({key: value(annotation, i) if callable(value) else value for key, value in changes.items()})
    return change


def images_and_annotations(number: Callable[[int], object], both: bool) -> Change:
    def change(content: dict) -> None:
        for image in content['images']:
            image['id'] = number(image['id']) if both else image['id']
        for annotation in content['annotations']:
            annotation['image_id'] = number(annotation['image_id'])
    return change


def reverse_categories(content: dict) -> None:
    count = len(content['categories'])
    for category in content['categories']:
        category['id'] = count + 1 - category['id']
    content['categories'].reverse()
    each(category_id=lambda a, i: count + 1 - a['category_id'])(content)


def as_run_lengths(content: dict) -> None:
    """As datumaro writes masks: uncompressed run lengths."""
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    for annotation in content['annotations']:
        size = sizes[annotation['image_id']]
        annotation['segmentation'] = dict(size=list(size), counts=run_lengths(mask_of(annotation, size).ravel(order='F')))


def run_lengths(values: np.ndarray) -> list[int]:
    changes = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *changes, len(values)]).tolist()
    return [0, *counts] if values[0] else counts


CORRECTED = {
    'annotation ids from 0': (each(id=lambda a, i: i), 'annotation ids used twice or missing, or no whole numbers from 1: 1'),
    'negative annotation ids': (each(id=lambda a, i: -i - 1), 'annotation ids used twice or missing, or no whole numbers from 1'),
    'annotation ids as text': (each(id=lambda a, i: f'b7-{i}'), 'no whole numbers from 1'),
    'annotation ids as floats': (each(id=lambda a, i: float(i + 1)), 'no whole numbers from 1'),
    'annotation ids null': (each(id=None), 'no whole numbers from 1'),
    'image_id as text': (images_and_annotations(str, both=False), 'image_ids of annotations that are text'),
    'image_id as floats': (images_and_annotations(float, both=False), 'image_ids of annotations that are text'),
    'image ids as text': (images_and_annotations(str, both=True), 'ids of images that are text'),
    'image ids as names': (images_and_annotations(lambda n: f'frame{n}', both=True), 'ids of images that are text'),
    'category_id as text': (each(category_id=lambda a, i: str(a['category_id'])), 'category_ids of annotations that are text'),
    'category_id as names': (lambda c: each(category_id=lambda a, i: c['categories'][a['category_id'] - 1]['name'])(c),
                             'category_ids of annotations that are text'),
    'area 0': (each(area=0), 'annotations whose area is 0 or less'),
    'area negative': (each(area=-120.5), 'annotations whose area is 0 or less'),
    'area null': (each(area=None), 'annotations without area or iscrowd'),
    'iscrowd null': (each(iscrowd=None), 'annotations without area or iscrowd'),
    'categories reversed': (reverse_categories, ''),
    'run lengths': (as_run_lengths, ''),
    'listed twice': (lambda c: c['annotations'].extend([dict(a, id=1000 + i) for i, a in enumerate(c['annotations'][:3])]),
                     'objects listed twice: 3 (annotation 1000, annotation 1001, annotation 1002); left out'),
    'absolute names': (lambda c: [image.update(file_name=f'/home/anna/x/{image["file_name"]}') for image in c['images']],
                       'images found by the last part of their names'),
    'percent-encoded names': (lambda c: [image.update(file_name=f'/data/local-files/?d=x%20y/{image["file_name"]}')
                                         for image in c['images']], 'images found by the last part of their names'),
    'names without suffix': (lambda c: [image.update(file_name=Path(image['file_name']).stem) for image in c['images']],
                             'images found by the last part of their names'),
    'suffix in capitals': (lambda c: [image.update(file_name=image['file_name'].upper()) for image in c['images']],
                           'images found by the last part of their names'),
}


@pytest.mark.parametrize('kind', CORRECTED)
def test_what_is_corrected_is_used_whole(kind: str, config: Callable, coco: Path, shapes_root: Path,
                                         capsys: pytest.CaptureFixture):
    change, told = CORRECTED[kind]
    count = in_file(coco, 'train')
    edit(coco, change)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS)
    assert told in capsys.readouterr().out
    scores = perfect(own, objects(shapes_root, 'val'))
    assert scores['coco/bbox_mAP'] == 1
    assert scores['coco/segm_mAP'] >= 0.95
    assert trained_on(own) == count


def crowds_of(name: str, **marks: int) -> Change:
    def change(content: dict) -> None:
        ids = {category['name']: category['id'] for category in content['categories']}
        for annotation in content['annotations']:
            if name in ('', next(key for key, value in ids.items() if value == annotation['category_id'])):
                annotation.update(marks)
    return change


@pytest.mark.parametrize('marks', [dict(iscrowd=1), dict(ignore=1)])
@pytest.mark.parametrize('name', ['', 'circle'])
def test_crowds_that_are_none(name: str, marks: dict, config: Callable, coco: Path, shapes_root: Path,
                              capsys: pytest.CaptureFixture):
    count = in_file(coco, 'train')
    edit(coco, crowds_of(name, **marks))
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), SPLITS)
    printed = capsys.readouterr().out
    assert 'instances marked iscrowd or ignore, as are all of their class: ' in printed
    assert 'circle 6' in printed
    assert '--iscrowd objects' in printed
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS, crowds='objects')
    assert 'taken as objects like all others' in capsys.readouterr().out
    assert perfect(own, objects(shapes_root, 'val'))['coco/bbox_mAP'] == 1
    assert trained_on(own) == count


@pytest.mark.parametrize('marks', [dict(iscrowd=1), dict(ignore=1)])
def test_crowds_among_others_are_counted(marks: dict, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    edit(coco, lambda c: c['annotations'][0].update(marks))
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS)
    printed = capsys.readouterr().out
    count = in_file(coco, 'train')
    assert f'note      train: training uses {count - 1} of {count} instances; not used: 1 of ' in printed
    assert 'instances marked iscrowd or ignore: 1 (' in printed
    assert trained_on(own) == count - 1


def points(change: Callable[[list[float]], object]) -> Change:
    """Changes the points x, y, x, y, … of every polygon; what is no polygon becomes its box."""
    def changed(annotation: dict, _: int) -> list:
        x, y, width, height = annotation['bbox']
        box = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        return [change(p) for p in (annotation['segmentation'] if isinstance(annotation['segmentation'], list) else box)]
    return each(segmentation=changed)


def by_rows(content: dict) -> None:
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    for annotation in content['annotations']:
        size = sizes[annotation['image_id']]
        annotation['segmentation'] = dict(size=list(size), counts=run_lengths(mask_of(annotation, size).ravel()))


REFUSED = {
    'polygons twice as large': (points(lambda p: [2 * v for v in p]), 'masks that do not lie in their boxes: ',
                                'they are 2 times as large as their boxes'),
    'polygons of shares': (points(lambda p: [v / 128 for v in p]), 'masks that do not lie',
                           'their points are shares of the image from 0 to 1'),
    'polygons elsewhere': (points(lambda p: [v + 60 for v in p]), 'masks that do not lie',
                           'they are shifted against their boxes by x +60, y +60 pixels'),
    'y before x': (points(lambda p: [p[j ^ 1] for j in range(len(p))]),
                   'masks that do not lie', "their points are y, x, and COCO's are x, y"),
    'run lengths by rows': (by_rows, 'masks that do not lie', 'their run lengths go by rows'),
    'pairs of points': (lambda c: (points(lambda p: [p[j:j + 2] for j in range(0, len(p), 2)])(c), each(
        segmentation=lambda a, i: a['segmentation'][0])(c)), 'segmentations that cannot be read: 38', 'is a list of points'),
    'category ids off by one': (each(category_id=lambda a, i: a['category_id'] - 1),
                                'annotations of a category that is not listed',
                                'their category ids, 0 to 3, are off by one: the categories have 1 to 4'),
    'category ids that are nowhere': (each(category_id=lambda a, i: f'x{i}'), 'annotations of a category that is not listed: 38',
                                      'too many to be annotation errors'),
    'two names of one file': (lambda c: [image.update(file_name=f'/x/cam{i}/00000.png') for i, image in enumerate(c['images'])],
                              'different names that lead to one file', '/x/cam0/00000.png and /x/cam1/00000.png'),
    'images that are nowhere': (lambda c: [image.update(file_name=f'{i}x.png') for i, image in enumerate(c['images'][3:])],
                                'images without a file: 9', 'too many to be left out'),
    'image ids of another file': (each(image_id=lambda a, i: a['image_id'] + 1000),
                                  'annotations of images that are not listed: 38', 'too many to be annotation errors'),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_what_means_something_else_is_refused(kind: str, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    change, *told = REFUSED[kind]
    edit(coco, change, ('train',))
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), SPLITS)
    printed = capsys.readouterr().out
    assert all(part in printed for part in told), printed


def test_rotated_boxes(config: Callable, coco: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    """As CVAT writes them: by a quarter turn, so that the box around the rotated one is known."""
    def rotate(content: dict) -> None:
        for annotation in content['annotations']:
            x, y, width, height = annotation['bbox']
            center = x + width / 2, y + height / 2
            annotation.update(bbox=[center[0] - height / 2, center[1] - width / 2, height, width],
                              attributes=dict(occluded=False, rotation=90.0))

    edit(coco, rotate)
    own = config('retinanet_ravlt_t')
    use_data(own, str(coco), SPLITS)
    assert 'boxes written as before their rotation: ' in capsys.readouterr().out
    assert perfect(own, objects(shapes_root, 'val'))['coco/bbox_mAP'] == 1


def test_predictions_as_truth_are_noted(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    edit(coco, each(score=lambda a, i: 0.05 + 0.02 * i))
    use_data(config('retinanet_ravlt_t'), str(coco), SPLITS)
    assert 'annotations with a score, as predictions have: 38' in (printed := capsys.readouterr().out)
    assert 'they go from 0.05 to 0.79, and all are taken as truth' in printed


@pytest.mark.parametrize('layout', ['by name', 'by content', 'masks'])
def test_validation_images_that_are_training_images(layout: str, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    if layout == 'masks':
        for folder in ('', 'semantic/'):
            shutil.copy(coco / f'{folder}train/00003.png', coco / f'{folder}val/00002.png')
    elif layout == 'by content':
        shutil.copy(coco / 'train/00003.png', coco / 'val/00002.png')
    else:
        (coco / 'val/00002.png').unlink()
        (coco / 'val/00002.png').symlink_to(coco / 'train/00003.png')
    use_data(config('semanticfpn_ravlt_t' if layout == 'masks' else 'retinanet_ravlt_t'), str(coco), SPLITS)
    assert 'note      val: validation images that are training images: 1 (00002.png)' in capsys.readouterr().out


def test_only_images_with_objects_are_held_out(config: Callable, cvat: Path):
    path = cvat / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    empty = {image['id'] for image in content['images'][:-2]}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] not in empty]
    path.write_text(json.dumps(content))
    own = config('retinanet_ravlt_t')
    use_data(own, str(cvat), SPLITS)
    held_out = json.loads(Path(own.val_dataloader.dataset.ann_file).read_text())
    assert len(held_out['images']) == 1
    assert held_out['annotations']


def test_sizes_of_stored_images_with_boxes_of_rotated_ones(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    """A camera's image, stored on its side: the tool wrote its stored size, and the boxes as they are shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (128, 64)).save(coco / 'train/00000.png', exif=exif)

    def change(content: dict) -> None:
        content['images'][0].update(width=128, height=64)
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 1]
        content['annotations'].append(dict(id=900, image_id=1, category_id=1, bbox=[10, 70, 40, 50], area=2000, iscrowd=0,
                                           segmentation=[[10, 70, 50, 70, 50, 120, 10, 120]]))

    edit(coco, change, ('train',))
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('retinanet_ravlt_t'), str(coco), SPLITS)
    assert 'images with the size as they are stored and boxes as they are shown' in capsys.readouterr().out


@pytest.mark.parametrize(('move', 'layout'), [
    (lambda root: move_into(root, 'export'), 'COCO format, in the folder export'),
    (lambda root: (root / 'annotations/instances_train.json').rename(root / 'annotations/instances_trainval.json'),
     'COCO format'),
    (lambda root: hide(root), 'COCO format'),
    (lambda root: nest(root), 'COCO format'),
], ids=['one folder deeper', 'trainval', 'hidden files', 'folders of jobs'])
def test_layouts_that_are_found(move: Callable, layout: str, config: Callable, coco: Path, shapes_root: Path,
                                capsys: pytest.CaptureFixture):
    move(coco)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS)
    assert f'Data in {coco}: {layout}\n' in capsys.readouterr().out
    assert perfect(own, objects(shapes_root, 'val'))['coco/bbox_mAP'] == 1
    assert trained_on(own) == in_file(shapes_root, 'train')


def move_into(root: Path, name: str) -> None:
    inside = list(root.iterdir())
    (root / name).mkdir()
    for path in inside:
        path.rename(root / name / path.name)


def hide(root: Path) -> None:
    """What macOS, archives and Jupyter leave."""
    for folder in ('.ipynb_checkpoints', '__MACOSX/annotations'):
        (root / folder).mkdir(parents=True)
        shutil.copy(root / 'annotations/instances_train.json', root / folder / '._train.json')
    (root / 'annotations/._train.json').write_bytes(b'\0\5\26\7')


def nest(root: Path) -> None:
    for split in SPLITS:
        (root / 'images' / split / 'job_1').mkdir(parents=True)
        for path in (root / split).iterdir():
            path.rename(root / 'images' / split / 'job_1' / path.name)
        (root / split).rmdir()


def test_any_name_of_an_annotation_file(config: Callable, cvat: Path, capsys: pytest.CaptureFixture):
    (cvat / 'annotations/instances_default.json').rename(cvat / 'dataset.json')
    (cvat / 'annotations').rmdir()
    (cvat / 'images/default').rename(cvat / 'photos')
    use_data(config('retinanet_ravlt_t'), str(cvat), SPLITS)
    assert 'COCO format, dataset.json' in capsys.readouterr().out


def test_a_divided_split_is_corrected_for_evaluation_too(config: Callable, cvat: Path, shapes_root: Path,
                                                         capsys: pytest.CaptureFixture):
    """Every tenth image is evaluated: what is marked ignore there must not count, nor masks of nothing."""
    path = cvat / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    first = content['images'][0]['id']
    of_first = [a for a in content['annotations'] if a['image_id'] == first]
    of_first[0]['ignore'] = 1
    of_first[1]['segmentation'] = dict(size=[128, 128], counts=[128 * 128])
    path.write_text(json.dumps(content))
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(cvat), SPLITS)
    printed = capsys.readouterr().out
    assert 'instances marked ignore, which pycocotools counts all the same: 1' in printed
    assert 'run lengths of no pixel: 1' in printed
    held_out = json.loads(Path(own.val_dataloader.dataset.ann_file).read_text())
    of_held_out = [a for a in held_out['annotations'] if a['image_id'] == first]
    assert len(of_held_out) == len(of_first) - 1
    assert sum(a['iscrowd'] for a in of_held_out) == 1


def test_a_class_of_one_crowd_in_validation_is_fine(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    edit(coco, crowds_of('circle', iscrowd=1), ('val',))
    use_data(config('maskrcnn_ravlt_t'), str(coco), SPLITS)
    assert 'note      val: instances marked iscrowd or ignore: ' in capsys.readouterr().out


def test_more_objects_than_the_metric_takes(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    edit(coco, lambda c: c['annotations'].extend([dict(c['annotations'][0], id=500 + i, bbox=[i, 2, 30, 30], segmentation=[
        [i, 2, i + 30, 2, i + 30, 32, i, 32]]) for i in range(90)] * 2), ('val',))
    edit(coco, lambda c: [a.update(id=i + 1, bbox=[a['bbox'][0] + 0.01 * i, *a['bbox'][1:]])
                          for i, a in enumerate(c['annotations'])], ('val',))
    use_data(config('retinanet_ravlt_t'), str(coco), SPLITS)
    assert "images of more than 100 objects: 1 (00000.png); COCO's metrics take 100 predictions" in capsys.readouterr().out


def test_boxes_of_what_is_hidden_too(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    """Masks of the visible part, in boxes of the whole: no error."""
    edit(coco, each(segmentation=lambda a, i: [[a['bbox'][0], a['bbox'][1], a['bbox'][0] + a['bbox'][2], a['bbox'][1],
                                                a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3] / 4,
                                                a['bbox'][0], a['bbox'][1] + a['bbox'][3] / 4]]), ('train',))
    use_data(config('maskrcnn_ravlt_t'), str(coco), SPLITS)
    assert 'they are much smaller than their boxes' in capsys.readouterr().out


def test_file_names_that_are_no_text(config: Callable, coco: Path):
    """As Linux allows them; the corrected copy has them as Python's escapes."""
    name = b'a\xff.png'.decode('utf-8', 'surrogateescape')
    (coco / 'train/00000.png').rename(coco / 'train' / name)
    edit(coco, lambda c: (c['images'][0].update(file_name=name), each(id=lambda a, i: i)(c)), ('train',))
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), SPLITS)
    assert trained_on(own) == in_file(coco, 'train')


def test_iscrowd_needs_a_folder(call: Callable):
    for tool in ('tools/train.py', 'tools/check_data.py'):
        done = call('python', tool, 'tests/faults/configs/tiny_detector.py', '--iscrowd', 'objects')
        assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (
            1, 'error: --iscrowd is about the folder of --data: give both.')


def test_masks_that_are_rectangles(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    def change(content: dict) -> None:
        for annotation in content['annotations'][:3]:
            x, y, width, height = annotation['bbox']
            annotation['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]

    edit(coco, change, ('train',))
    use_data(config('maskrcnn_ravlt_t'), str(coco), SPLITS)
    assert 'note      train: masks that are rectangles along the axes: 3 (annotation 1, annotation 2, annotation 3)' in (
        capsys.readouterr().out)


def test_a_name_with_an_accent_that_is_found_elsewhere(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    (coco / 'train/00000.png').rename(coco / 'train/Café.png')
    edit(coco, lambda c: c['images'][0].update(file_name='/home/anna/Café.png'), ('train',))
    use_data(config('retinanet_ravlt_t'), str(coco), SPLITS)
    printed = capsys.readouterr().out
    assert 'images found by the last part of their names: 1 (/home/anna/Café.png is Café.png)' in printed
    assert 'in another Unicode form' not in printed

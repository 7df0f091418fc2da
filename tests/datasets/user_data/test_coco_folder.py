"""COCO-format folders: layouts that are found, defects that are told, and data sets that read what was meant."""

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from ralamala_mm.datasets import check_paths, use_data
from ralamala_mm.datasets.diagnosis import check_dataset
from ralamala_mm.errors import UserError

SHAPES = ('circle', 'square', 'triangle', 'star')


def read(config: Config, mode: str) -> list[dict]:
    """Every image with its labels, as MMDetection reads it."""
    import mmdet.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        dataset = registry.build(dict(config[f'{mode}_dataloader'].dataset, pipeline=[]))
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def labels(config: Config, mode: str) -> dict[str, list[str]]:
    classes = config[f'{mode}_dataloader'].dataset.metainfo.classes
    return {Path(info['img_path']).name: sorted(classes[i['bbox_label']] for i in info['instances'])
            for info in read(config, mode)}


def truth(root: Path, split: str) -> dict[str, list[str]]:
    content = json.loads((root / f'annotations/instances_{split}.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    return {image['file_name']: sorted(names[a['category_id']] for a in content['annotations'] if a['image_id'] == image['id'])
            for image in content['images']}


@pytest.mark.parametrize('name', ['maskrcnn_ravlt_t', 'cascade_maskrcnn_ravlt_t_3x'])
def test_as_roboflow_exports(name: str, config: Callable, roboflow: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config(name)
    use_data(own, str(roboflow), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    assert labels(own, 'train') == truth(shapes_root, 'train')
    assert labels(own, 'val') == truth(shapes_root, 'val')
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == SHAPES
    box_heads = own.model.roi_head.bbox_head
    for head in [*(box_heads if isinstance(box_heads, list) else [box_heads])]:
        assert head.num_classes == 4
    printed = capsys.readouterr().out
    assert 'as Roboflow exports it' in printed
    assert 'corrected train: parents of the other categories, without instances: 1 (shapes); left out' in printed
    assert '12 images of 128×128, 0 of them empty' in printed
    assert '4 classes: ' in printed


def test_as_cvat_exports(config: Callable, cvat: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('retinanet_mala_t')
    use_data(own, str(cvat), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    assert own.model.bbox_head.num_classes == 4
    train, val = labels(own, 'train'), labels(own, 'val')
    assert (len(train), len(val)) == (10, 2)  # every tenth of 12 is held out
    assert train | val == truth(shapes_root, 'train')
    printed = capsys.readouterr().out
    assert 'as CVAT exports it' in printed
    assert 'every 10th image that has objects is held out' in printed


def test_categories_in_another_order_and_fields_left_out(config: Callable, reordered: Path, shapes_root: Path,
                                                         capsys: pytest.CaptureFixture):
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(reordered), ('train', 'val'))
    assert labels(own, 'train') == truth(shapes_root, 'train')
    assert labels(own, 'val') == truth(shapes_root, 'val')
    assert own.val_evaluator.ann_file == str(Path(own.work_dir, 'data/val.json').absolute())
    printed = capsys.readouterr().out
    assert 'corrected train: annotations without area or iscrowd: ' in printed
    assert 'corrected val: categories differ from those of training, or in order' in printed
    # The metric reads the same copy; its ground truth matches itself.
    from pycocotools.coco import COCO

    assert [category['name'] for category in COCO(own.val_evaluator.ann_file).cats.values()] == list(SHAPES)


def test_testing_reads_the_test_split_if_there_is_one(config: Callable, roboflow: Path):
    shutil.copytree(roboflow / 'valid', roboflow / 'test')
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(roboflow), ('test',))
    assert 'test' in own.test_dataloader.dataset.ann_file
    assert own.test_dataloader.dataset.data_prefix.img == 'test/'


def test_the_config_s_own_data_elsewhere(config: Callable, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('demo/maskrcnn_ravlt_t_shapes')
    before = own.train_dataloader.dataset.metainfo
    use_data(own, str(shapes_root), ('train', 'val'))
    assert own.train_dataloader.dataset.data_root == str(shapes_root)
    assert own.train_dataloader.dataset.ann_file == 'annotations/instances_train.json'
    assert own.train_dataloader.dataset.metainfo == before  # its palette too
    assert own.val_evaluator.ann_file == str(shapes_root / 'annotations/instances_val.json')
    assert 'no problems found' in capsys.readouterr().out
    assert [path for path in Path(own.work_dir).rglob('*') if path.suffix == '.json' and not path.match('*.inspected.json')] == []


def plant(root: Path, defect: Callable[[dict], object], split: str = 'train') -> dict:
    path = root / f'annotations/instances_{split}.json'
    content = json.loads(path.read_text())
    defect(content)
    path.write_text(json.dumps(content))
    return content


def test_a_corrected_copy_is_read_whole(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    """All that can be corrected, at once; the user's file is not changed."""

    def defects(content: dict) -> None:
        boxes = content['annotations']
        boxes[0]['bbox'][2] = 0
        boxes[1]['bbox'] = [-900.0, 10.0, 50.0, 50.0]
        boxes[2]['bbox'] = [100.0, 100.0, 90.0, 90.0]
        boxes[3]['id'] = boxes[4]['id']
        boxes.append(dict(boxes[5], id=9999, image_id=4242))

    content = plant(coco, defects)
    text = (coco / 'annotations/instances_train.json').read_text()
    (coco / 'train' / content['images'][-1]['file_name']).unlink()
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ('train', 'val'))
    printed = capsys.readouterr().out
    for part in ('boxes without area: 1 (annotation 1 of 00000.png)', 'boxes outside the image: 1 (annotation 2',
                 'boxes that reach beyond their image: 1 (annotation 3',
                 'annotation ids used twice or missing, or no whole numbers from 1: 1 (5)',
                 'annotations of images that are not listed: 1 (annotation 9999); not used',
                 'images without a file: 1 (00011.png); left out with their annotations'):
        assert part in printed, printed
    assert (coco / 'annotations/instances_train.json').read_text() == text
    assert len(read(own, 'train')) == 11
    copy = json.loads(Path(own.train_dataloader.dataset.ann_file).read_text())
    assert len({a['id'] for a in copy['annotations']}) == len(copy['annotations'])


@pytest.mark.parametrize(('defect', 'message'), [
    (lambda c: c['images'][1].update(id=c['images'][0]['id']), 'ERROR     train: image ids used twice: 1 (1)'),
    (lambda c: c['images'][0].update(width=64), 'images of another size than the annotations say, of 12 inspected: 1 '
                                                '(00000.png is 128×128, not 64×128)'),
    (lambda c: c['categories'][1].update(id=1), 'ERROR     train: category ids used twice: 1 (1)'),
    (lambda c: c['categories'][1].update(name='circle'), 'ERROR     train: category names used twice: 1 (circle)'),
    (lambda c: c['annotations'][0].update(segmentation=[]), 'ERROR     train: annotations with a box but no mask: 1 (annotation '
                                                            '1); this model needs masks: draw them, or train a RetinaNet'),
    (lambda c: [a.update(category_id=1) for a in c['annotations']] and c['categories'].__delitem__(slice(1, None)),
     'ERROR     val: has instances of square, star, triangle, unknown to training'),
])
def test_defects_that_stop(defect: Callable, message: str, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    plant(coco, defect)
    own = config('maskrcnn_ravlt_t')
    with pytest.raises(UserError, match=r'cannot be used as it is: .* marked ERROR in the report above'):
        use_data(own, str(coco), ('train', 'val'))
    printed = capsys.readouterr().out
    assert message in printed, printed
    assert not Path(own.work_dir).exists()


@pytest.mark.parametrize(('defect', 'message'), [
    (lambda c: [x.update(id=x['id'] * 7) for x in c['categories']] and [a.update(category_id=a['category_id'] * 7)
                                                                         for a in c['annotations']],
     'category ids have gaps (7, 14, 21, 28), which is fine'),
    (lambda c: c['annotations'][0].update(category_id=77), 'annotations of a category that is not listed: 1 (annotation 1)'),
    (lambda c: c['categories'].append(dict(id=5, name='hexagon')), 'classes without an instance: 1 (hexagon)'),
    (lambda c: c['images'].append(dict(c['images'][0], id=77)), 'images listed twice: 1 (00000.png)'),
    (lambda c: c['images'].append(dict(id=77, file_name='small.png', width=31, height=40)),
     'images smaller than 32 pixels: 1 (small.png)'),
])
def test_what_is_only_noted(defect: Callable, message: str, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    Image.new('RGB', (31, 40)).save(coco / 'train/small.png')
    plant(coco, defect)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ('train',))
    assert f'note      train: {message}' in capsys.readouterr().out


def test_turned_photographs(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    """Cameras store an image on its side and say so; OpenCV and labelling tools turn it."""
    image = Image.open(coco / 'train/00000.png').crop((0, 0, 128, 96))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(coco / 'train/00000.png', exif=exif)
    plant(coco, lambda c: c['images'][0].update(width=96, height=128))
    use_data(config('retinanet_ravlt_t'), str(coco), ('train',))
    assert 'as they are stored' not in capsys.readouterr().out
    plant(coco, lambda c: c['images'][0].update(width=128, height=96))  # as it is stored
    use_data(config('retinanet_ravlt_t'), str(coco), ('train',))
    told = 'images annotated as they are stored, not rotated as EXIF says, of 12 inspected: 1 (00000.png)'
    assert told in capsys.readouterr().out


def test_boxes_suffice_for_a_model_without_masks(config: Callable, coco: Path):
    for split in ('train', 'val'):
        plant(coco, lambda c: [a.pop('segmentation') for a in c['annotations']], split)
    use_data(config('retinanet_ravlt_t'), str(coco), ('train', 'val'))


@pytest.mark.parametrize('box', [[1, 2], [1, 2, 3, 4, 5, 6], [1, 2, float('nan'), 4], None])
def test_boxes_that_are_no_boxes(config: Callable, coco: Path, box: object):
    plant(coco, lambda c: [a.update(bbox=box) for a in c['annotations']])
    with pytest.raises(UserError, match='has a bbox that is not four numbers'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), ('train',))


@pytest.mark.parametrize(('key', 'value', 'told'), [
    ('area', '', 'an area that is no number'), ('area', [], 'an area that is no number'),
    ('iscrowd', '', 'an iscrowd or ignore that is neither 0 nor 1'),
    ('ignore', '0', 'an iscrowd or ignore that is neither 0 nor 1'),
    ('id', [], 'an id that is neither a number nor a text')])
def test_values_of_another_kind(key: str, value: object, told: str, config: Callable, coco: Path):
    """Empty ones are no missing ones: only null is."""
    plant(coco, lambda c: c['annotations'][0].update({key: value}))
    with pytest.raises(UserError, match=told):
        use_data(config('retinanet_ravlt_t'), str(coco), ('train', 'val'))


def test_images_that_are_nowhere(config: Callable, coco: Path):
    shutil.rmtree(coco / 'train')
    with pytest.raises(UserError, match=r'none of the images that .*instances_train.json names is there, such as 00000'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), ('train',))


def test_two_files_for_one_split(config: Callable, coco: Path):
    shutil.copy(coco / 'annotations/instances_train.json', coco / 'annotations/instances_training.json')
    with pytest.raises(UserError, match='could both be the train annotations'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), ('train',))


def test_masks_for_a_detector(config: Callable, voc: Path):
    with pytest.raises(UserError, match='holds images with masks but no COCO annotations'):
        use_data(config('maskrcnn_ravlt_t'), str(voc), ('train',))


def test_a_folder_to_test_on_alone(config: Callable, roboflow: Path, shapes_root: Path):
    shutil.rmtree(roboflow / 'train')
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(roboflow), ('test',))
    check_paths(own, ('test',))
    assert labels(own, 'test') == truth(shapes_root, 'val')
    with pytest.raises(UserError, match=r'has no data for train and val: looked for COCO annotations .*; found val only'):
        use_data(config('maskrcnn_ravlt_t'), str(roboflow), ('train', 'val'))


def test_the_weights_order_of_classes_counts(config: Callable, coco: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    """A folder that lists the same classes in another order than the weights were trained on."""
    for split in ('train', 'val'):
        plant(coco, lambda c: c['categories'].reverse(), split)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['test'], weights_classes=SHAPES)
    assert tuple(own.test_dataloader.dataset.metainfo.classes) == SHAPES
    assert labels(own, 'test') == truth(shapes_root, 'val')
    with pytest.raises(UserError):
        use_data(config('maskrcnn_ravlt_t'), str(coco), ['test'], weights_classes=SHAPES[:3])
    assert 'has instances of star, unknown to the weights' in capsys.readouterr().out


def test_a_test_split_serves_for_validation(config: Callable, roboflow: Path, capsys: pytest.CaptureFixture):
    (roboflow / 'valid').rename(roboflow / 'test')
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(roboflow), ['train', 'val'])
    assert 'test' in own.val_dataloader.dataset.ann_file
    assert 'the test split is used instead' in capsys.readouterr().out


def test_what_is_not_used_is_not_inspected(config: Callable, coco: Path):
    """Validation images alone, beside the annotations of both parts."""
    shutil.rmtree(coco / 'train')
    own = config('demo/maskrcnn_ravlt_t_shapes')
    use_data(own, str(coco), ['test'])
    check_paths(own, ['test'])


def test_a_class_that_is_its_own_parent_stays(config: Callable, coco: Path):
    for split in ('train', 'val'):
        plant(coco, lambda c: c['categories'].append(dict(id=9, name='hexagon', supercategory='hexagon')), split)
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == (*SHAPES, 'hexagon')


def test_an_annotation_without_id(config: Callable, coco: Path):
    plant(coco, lambda c: c['annotations'][0].pop('id'))
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    assert len(read(own, 'train')) == 12


def test_one_image_is_not_enough(config: Callable, cvat: Path):
    path = cvat / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    content['images'] = content['images'][:1]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] == content['images'][0]['id']]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='has 1 image to train on and none to validate on'):
        use_data(config('maskrcnn_ravlt_t'), str(cvat), ['train', 'val'])


def test_several_data_sets_are_not_replaced_by_one(config: Callable, coco: Path):
    own = config('maskrcnn_ravlt_t')
    dataset = own.train_dataloader.dataset
    own.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    with pytest.raises(UserError, match='this config joins several'):
        use_data(own, str(coco), ['train', 'val'])


def test_two_corners_instead_of_a_size(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    plant(coco, lambda c: [a.update(bbox=[a['bbox'][0], a['bbox'][1], a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3]])
                           for a in c['annotations']])
    with pytest.raises(UserError):
        use_data(config('retinanet_ravlt_t'), str(coco), ['train', 'val'])
    assert "COCO's boxes are x, y, width, height in pixels, not two corners" in capsys.readouterr().out


def test_shares_instead_of_pixels(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    plant(coco, lambda c: [a.update(bbox=[value / 128 for value in a['bbox']]) for a in c['annotations']])
    with pytest.raises(UserError):
        use_data(config('retinanet_ravlt_t'), str(coco), ['train', 'val'])
    assert "COCO's boxes are in pixels, not shares of the image" in capsys.readouterr().out


def test_a_byte_order_mark(config: Callable, coco: Path, shapes_root: Path):
    """Windows tools put one in front; pycocotools cannot read it."""
    for split in ('train', 'val'):
        path = coco / f'annotations/instances_{split}.json'
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    assert labels(own, 'train') == truth(shapes_root, 'train')


def test_the_saved_config_tests_what_was_validated(config: Callable, roboflow: Path, shapes_root: Path):
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(roboflow), ['train', 'val'])
    check_paths(own, ['test'])
    assert labels(own, 'test') == truth(shapes_root, 'val')
    assert own.test_evaluator.ann_file == own.val_evaluator.ann_file


def test_names_from_other_systems(config: Callable, coco: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    """Written on Windows, or with the accents of a Mac; the copy has the files' own names."""
    composed, decomposed = (unicodedata.normalize(form, 'é.png') for form in ('NFC', 'NFD'))
    (coco / 'train/00001.png').rename(coco / 'train' / decomposed)
    plant(coco, lambda c: [image.update(file_name=f'train\\{image["file_name"]}') for image in c['images']])
    plant(coco, lambda c: c['images'][1].update(file_name=composed))
    plant(coco, lambda c: [image.update(file_name=f'C:\\data\\val\\{image["file_name"]}') for image in c['images']], 'val')
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    expected = truth(shapes_root, 'train')
    assert labels(own, 'train') == {decomposed if name == '00001.png' else name: found for name, found in expected.items()}
    assert labels(own, 'val') == truth(shapes_root, 'val')
    assert all(Path(info['img_path']).is_file() for info in read(own, 'train') + read(own, 'val'))
    told = 'corrected train: file names written as on Windows, or in another Unicode form than the file\'s: 12'
    assert told in capsys.readouterr().out


@pytest.mark.parametrize('by_config', [True, False])
def test_two_cameras_in_one_folder(by_config: bool, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    """Both would be read as the same image."""
    plant(coco, lambda c: [image.update(file_name=f'cam{i % 2}\\{i // 2:05d}.png') for i, image in enumerate(c['images'])])
    own = config('demo/maskrcnn_ravlt_t_shapes')
    if not by_config:
        with pytest.raises(UserError, match='marked ERROR in the report above'):
            use_data(own, str(coco), ['train', 'val'])
        assert ('ERROR     train: different names that lead to one file: 6 (cam0\\00000.png and cam1\\00000.png, '
                in capsys.readouterr().out)
        return
    import mmdet.datasets  # noqa: F401

    own.train_dataloader.dataset.data_root = str(coco)
    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        dataset = registry.build(dict(own.train_dataloader.dataset, pipeline=[]))
    with pytest.raises(UserError, match=r'has different names that lead to one file, such as \S+cam0\\00000.png and '):
        check_dataset(dataset)


def test_outlines_that_cannot_be_evaluated_are_left_out(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    plant(coco, lambda c: c['annotations'][0].update(segmentation=[[1, 2, 3, 4]]), 'val')
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    told = 'corrected val: polygons of fewer than three points, or run lengths of no pixel: 1 (annotation 1); left out'
    assert told in capsys.readouterr().out
    assert len(evaluated(own)) == len(json.loads((coco / 'annotations/instances_val.json').read_text())['annotations']) - 1


@pytest.mark.parametrize('stray', [[], [1, 2], [1, 2, 3, 4], [1, 2, 30, 4, 5, 90, 1]])
@pytest.mark.parametrize('is_first', [True, False])
def test_parts_of_outlines_that_cannot_be_evaluated_are_left_out(is_first: bool, stray: list, config: Callable, coco: Path,
                                                                 capsys: pytest.CaptureFixture):
    """By the first, pycocotools judges all; and nothing else asks for a copy."""
    triangle = [10, 10, 60, 10, 60, 60]
    outline = [stray, triangle] if is_first else [triangle, stray]
    plant(coco, lambda c: c['annotations'][1].update(segmentation=outline), 'val')
    plant(coco, lambda c: c['annotations'][1].update(segmentation=outline))
    own = config('maskrcnn_ravlt_t')
    use_data(own, str(coco), ['train', 'val'])
    told = 'val: segmentations with parts of an odd count or fewer than three points: 1 (annotation 2); these parts are left out'
    assert f'corrected {told}' in capsys.readouterr().out
    assert own.train_dataloader.dataset.ann_file == 'annotations/instances_train.json'
    assert evaluated(own)[1].sum() == 1225  # the triangle's pixels


def evaluated(config: Config) -> list[np.ndarray]:
    """The masks `[H, W]` that the metric compares with, of which none is empty."""
    from pycocotools.coco import COCO

    truth = COCO(os.path.join(config.data_root, config.val_evaluator.ann_file))
    masks = [truth.annToMask(annotation) for annotation in truth.anns.values()]
    assert all(mask.any() for mask in masks)
    return masks


@pytest.mark.parametrize('segmentation', [dict(size=[9, 9], counts=[81]), dict(size=[128, 128], counts='~'),
                                          [[0, 0, 1, 1, 1e300, 9]]])
def test_outlines_that_cannot_be_read(segmentation: object, config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    plant(coco, lambda c: c['annotations'][2].update(segmentation=segmentation))
    with pytest.raises(UserError):
        use_data(config('maskrcnn_ravlt_t'), str(coco), ['train', 'val'])
    assert 'ERROR     train: segmentations that cannot be read: 1 (annotation 3 of 0000' in capsys.readouterr().out
    use_data(config('retinanet_ravlt_t'), str(coco), ['train', 'val'])  # which needs none


def test_boxes_alone_for_a_pipeline_that_reads_masks(config: Callable, coco: Path):
    """The demo's RetinaNet shares its pipeline with Mask R-CNN."""
    for split in ('train', 'val'):
        path = coco / f'annotations/instances_{split}.json'
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        path.write_text(json.dumps(content))
    own = config('demo/retinanet_ravlt_t_shapes')
    use_data(own, str(coco), ('train', 'val'))
    import mmdet.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        assert len(registry.build(own.train_dataloader.dataset)[0]['data_samples'].gt_instances)

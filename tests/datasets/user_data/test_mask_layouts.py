"""Layouts of segmentation data sets as people, tools and public data sets leave them: perfect predictions score 100 % mIoU."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from segmentation_sets import (
    LAYOUTS,
    NAMES,
    Truth,
    bowl,
    camvid_datumaro,
    camvid_full,
    camvid_segnet,
    cityscapes_ids,
    cvat,
    deepglobe_land,
    deepglobe_roads,
    labelme_3,
    mask_of,
    numbered,
    objects,
    painted,
    put,
    roboflow,
    voc2012,
    voc_datumaro,
    with_classes,
)

from ralamala_mm.datasets import check_paths, use_data
from ralamala_mm.errors import UserError


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


def test_a_data_set_in_a_folder_for_each_split(config: Callable, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """As labelformat writes Pascal VOC's masks."""
    for split in ('train', 'val'):
        shutil.copytree(voc, tmp_path / 'export' / split)
        shutil.rmtree(tmp_path / 'export' / split / 'ImageSets')
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(tmp_path / 'export'), ('train', 'val'))
    assert ', in a folder for each split\n' in capsys.readouterr().out
    assert own.val_dataloader.dataset.data_prefix.img_path == 'val/JPEGImages'

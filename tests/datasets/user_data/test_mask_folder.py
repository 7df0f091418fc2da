"""Folders of images and masks: layouts that are found, defects that are told, and masks that are read as meant."""

import json
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
from ralamala_mm.errors import UserError

NAMES = ('background', 'circle', 'square', 'triangle', 'star')
COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9))


def read(config: Config, mode: str) -> dict[str, np.ndarray]:
    """Every mask by the name of its image, as MMSegmentation reads it."""
    import mmseg.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        dataset = registry.build(dict(config[f'{mode}_dataloader'].dataset,
                                      pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]))
    return {Path(item['img_path']).stem: item['gt_seg_map'] for item in dataset}


def truth(root: Path, split: str) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((root / 'semantic' / split).iterdir())}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def test_ade20k_s_folders_with_own_images(config: Callable, ade: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    assert same(read(own, 'train'), truth(shapes_root, 'train'))
    assert same(read(own, 'val'), truth(shapes_root, 'val'))
    assert own.model.decode_head.num_classes == own.model.auxiliary_head.num_classes == 5
    assert own.train_dataloader.dataset.type == 'BaseSegDataset'  # not ADE20K's, whose 0 is no class
    printed = capsys.readouterr().out
    assert '5 classes: class 0' in printed
    assert 'a file classes.txt' in printed


def test_ade20k_itself_stays_what_it_is(config: Callable, ade: Path):
    for path in [*ade.glob('images/*/*'), *ade.glob('annotations/*/*')]:
        if path.parent.parent.name == 'images':
            Image.open(path).convert('RGB').save(path.with_name(f'ADE_{path.stem}.jpg'))
        else:
            shutil.copy(path, path.with_name(f'ADE_{path.name}'))
        path.unlink()
    own = config('semanticfpn_mala_t')
    use_data(own, str(ade), ('train', 'val'))
    assert own.train_dataloader.dataset.type == 'ADE20KDataset'
    assert own.model.decode_head.num_classes == 150
    assert own.val_dataloader.dataset.data_root == str(ade)
    assert len(read(own, 'train')) == 12


def test_one_pair_without_splits(config: Callable, pair: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(pair), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    train, val = read(own, 'train'), read(own, 'val')
    assert (len(train), len(val)) == (10, 2)
    assert same(train | val, truth(shapes_root, 'train'))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == NAMES
    assert 'every 10th image is held out' in capsys.readouterr().out


@pytest.mark.parametrize('folder', ['JPEGImages', 'SegmentationClass'])
def test_two_cameras_in_a_list(folder: str, config: Callable, voc: Path, capsys: pytest.CaptureFixture):
    """The images, or the masks, of two cameras have one name, and their folders are missing."""
    for kind in {'JPEGImages', 'SegmentationClass'} - {folder}:
        for camera in ('cam1', 'cam2'):
            (voc / kind / camera).mkdir()
            shutil.copy(voc / kind / '00000.png', voc / kind / camera)
    (voc / 'ImageSets/Segmentation/train.txt').write_text('cam1\\00000\ncam2\\00000\n00001\n')
    with pytest.raises(UserError, match='marked ERROR in the report above'):
        use_data(config('upernet_mala_t'), str(voc), ('train', 'val'))
    assert ('ERROR     train: different names that lead to one file: 1 (cam1\\00000.png and cam2\\00000.png); the folders in '
            'them are missing') in capsys.readouterr().out


def test_colored_masks_with_their_list(config: Callable, voc: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('upernet_mala_t')
    use_data(own, str(voc), ('train', 'val'))
    check_paths(own, ('train', 'val'))
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == NAMES
    printed = capsys.readouterr().out
    assert 'masks are colored (RGB); labelmap.txt says which color is which class' in printed
    assert 'background 79' in printed or 'background 80' in printed


def test_palette_masks_are_their_indices(config: Callable, ade: Path, shapes_root: Path):
    for path in ade.glob('annotations/*/*'):
        mask = Image.fromarray(np.asarray(Image.open(path)))
        mask.putpalette([channel for color in COLORS for channel in color])
        assert mask.mode == 'P'
        mask.save(path)
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ('train', 'val'))
    assert same(read(own, 'train'), truth(shapes_root, 'train'))


@pytest.mark.parametrize(('change', 'message', 'expected'), [
    (lambda m: np.where(m > 0, 255, 0), '255 is taken for the object', lambda m: m > 0),
    (lambda m: np.repeat(m[..., None], 3, axis=2), 'grey images of three channels; one is used', lambda m: m),
])
def test_masks_that_are_converted(change: Callable, message: str, expected: Callable, config: Callable, ade: Path,
                                  shapes_root: Path, capsys: pytest.CaptureFixture):
    for path in ade.glob('annotations/*/*'):
        Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ('train', 'val'))
    assert message in capsys.readouterr().out
    assert same(read(own, 'train'), {key: expected(mask) for key, mask in truth(shapes_root, 'train').items()})


def spoil(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = root / 'annotations/training/00003.png'
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def photograph(mask: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)


def coloured(mask: np.ndarray) -> np.ndarray:
    return np.array([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0)], np.uint8)[mask]


@pytest.mark.parametrize(('change', 'message'), [
    (lambda m: np.where(m == m.max(), 9, m).astype(np.uint8), 'masks with values outside the classes: 1 (00003); values 9, '
                                                              'where 0 to 4 and 255 (ignored) may be'),
    (lambda m: m[:100], 'masks of another size than their image: 1 (00003: image 128×128, mask 128×100)'),
    (lambda m: m.astype(np.uint16) * 1000, 'masks with values above 255: 1 (00003)'),
    (lambda m: np.repeat(np.where(m == m.max(), 9, m).astype(np.uint8)[..., None], 3, axis=2),
     'masks with values outside the classes: 1 (00003); values 9'),
    (coloured, '15 masks have one channel, the other 1 are colored: make all alike'),
    (photograph, 'color masks have more than 64 colors'),
])
def test_defects_that_stop(change: Callable, message: str, config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    (ade / 'classes.txt').write_text('\n'.join(NAMES))
    spoil(ade, change)
    own = config('upernet_ravlt_t')
    with pytest.raises(UserError, match='marked ERROR in the report above'):
        use_data(own, str(ade), ('train', 'val'))
    assert message in capsys.readouterr().out
    assert not Path(own.work_dir).exists()


def test_colored_masks_without_a_list(config: Callable, voc: Path, capsys: pytest.CaptureFixture):
    (voc / 'labelmap.txt').unlink()
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(voc), ('train', 'val'))
    assert '12 masks are colored (RGB), and nothing says which color is which class' in capsys.readouterr().out


def test_smoothed_masks(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    for path in ade.glob('annotations/*/*'):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).resize((64, 64)).resize((128, 128)).save(path)
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(ade), ('train', 'val'))
    assert 'different values: they were smoothed or saved as JPEG' in capsys.readouterr().out


def test_a_mask_that_cannot_be_read(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    (ade / 'annotations/training/00003.png').write_bytes(b'PNG')
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(ade), ('train',))
    assert 'masks that cannot be read: 1 (00003)' in capsys.readouterr().out


def test_colors_that_the_list_lacks(config: Callable, voc: Path, capsys: pytest.CaptureFixture):
    lines = (voc / 'labelmap.txt').read_text().splitlines()
    (voc / 'labelmap.txt').write_text('\n'.join(lines[:-1]))
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(voc), ('train', 'val'))
    assert 'masks have colors that' in capsys.readouterr().out


def test_images_and_masks_without_each_other(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    (ade / 'annotations/training/00003.png').unlink()
    (ade / 'images/training/00005.png').unlink()
    shutil.copy(ade / 'images/training/00006.png', ade / 'images/training/extra.bmp')
    (ade / 'annotations/training/notes').mkdir()
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ('train', 'val'))
    printed = capsys.readouterr().out
    assert 'corrected train: images without a mask: 1 (00003); left out' in printed
    assert 'note      train: masks without an image: 1 (00005.png); not used' in printed
    assert 'images without a mask that do not end in .png: 1 (extra.bmp); not used' in printed
    assert sorted(read(own, 'train')) == [f'{i:05d}' for i in range(12) if i not in (3, 5)]


def test_images_of_two_kinds(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    Image.open(ade / 'images/training/00004.png').save(ade / 'images/training/00004.bmp')
    (ade / 'images/training/00004.png').unlink()
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(ade), ('train', 'val'))
    assert 'images that do not end in .png as most do: 1 (00004.bmp); MMSegmentation reads one suffix' in capsys.readouterr().out


def test_lists_that_name_what_is_not_there(config: Callable, voc: Path, capsys: pytest.CaptureFixture):
    (voc / 'ImageSets/Segmentation/train_val.txt').write_text('00000')  # of both parts: not the training list
    (voc / 'JPEGImages/00002.png').unlink()
    own = config('upernet_ravlt_t')
    use_data(own, str(voc), ('train', 'val'))
    assert 'corrected train: images that a list names, without a file: 1 (00002); left out' in capsys.readouterr().out
    assert sorted(read(own, 'train')) == [f'{i:05d}' for i in range(9) if i != 2]


def test_two_folders_of_masks(config: Callable, ade: Path):
    shutil.copytree(ade / 'annotations', ade / 'masks')
    with pytest.raises(UserError, match='could both be the train masks: leave one'):
        use_data(config('upernet_ravlt_t'), str(ade), ('train', 'val'))


def test_the_weights_classes_count(config: Callable, ade: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ['test'], weights_classes=(*NAMES, 'hexagon'))
    assert own.model.decode_head.num_classes == 6
    (ade / 'classes.txt').write_text('\n'.join(reversed(NAMES)))
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(ade), ['test'], weights_classes=NAMES)
    assert 'the weights were trained on background, circle' in capsys.readouterr().out


def test_weights_of_classes_go_with_the_classes(config: Callable, ade: Path):
    (ade / 'classes.txt').write_text('\n'.join([*NAMES, 'hexagon']))
    own = config('demo/upernet_ravlt_t_shapes')
    use_data(own, str(ade), ('train', 'val'))
    assert own.model.decode_head.num_classes == 6
    assert 'class_weight' not in own.model.decode_head.loss_decode


def test_masks_with_other_names(config: Callable, ade: Path):
    for path in ade.glob('annotations/*/*'):
        path.rename(path.with_name('x' + path.name))
    with pytest.raises(UserError, match=r'no mask in .* bears the name of an image'):
        use_data(config('upernet_ravlt_t'), str(ade), ('train',))


def test_a_list_of_names_that_is_none(config: Callable, voc: Path):
    (voc / 'labelmap.txt').write_text('background')
    with pytest.raises(UserError, match=r'labelmap.txt is not a list of class names'):
        use_data(config('upernet_ravlt_t'), str(voc), ('train',))


def test_annotations_for_a_segmentor(config: Callable, cvat: Path, shapes_root: Path):
    """Their outlines are painted as masks; the overlaps of these shapes are those of the built-in masks."""
    own = config('upernet_ravlt_t')
    use_data(own, str(cvat), ('train', 'val'))
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))


def test_boxes_for_a_segmentor(config: Callable, cvat: Path, capsys: pytest.CaptureFixture):
    path = cvat / 'annotations/instances_default.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        annotation['segmentation'] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('upernet_ravlt_t'), str(cvat), ('train', 'val'))
    assert 'objects with a box and no outline: 38 (annotation ' in (printed := capsys.readouterr().out)
    assert 'a segmentor learns pixels: outlines or masks are needed' in printed


def test_a_folder_to_test_on_alone(config: Callable, ade: Path, shapes_root: Path):
    for folder in ('images', 'annotations'):
        shutil.rmtree(ade / folder / 'training')
    own = config('upernet_ravlt_t')
    use_data(own, str(ade), ('test',))
    check_paths(own, ('test',))
    assert same(read(own, 'test'), truth(shapes_root, 'val'))


def test_masks_saved_as_jpeg(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    for path in ade.glob('annotations/*/*'):
        Image.open(path).save(path.with_suffix('.jpg'), quality=100)
        path.unlink()
    with pytest.raises(UserError):
        use_data(config('upernet_ravlt_t'), str(ade), ('train', 'val'))
    assert 'masks saved as JPEG: 12 (00000, 00001, 00002 and 9 more); which changes their values' in capsys.readouterr().out


def test_names_from_other_systems(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    """An image and its mask whose accents are stored in two ways: one letter, or a letter and an accent."""
    composed, decomposed = (unicodedata.normalize(form, 'é.png') for form in ('NFC', 'NFD'))
    (ade / 'images/training/00003.png').rename(ade / 'images/training' / composed)
    (ade / 'annotations/training/00003.png').rename(ade / 'annotations/training' / decomposed)
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(ade), ['train', 'val'])
    printed = capsys.readouterr().out
    assert '12 images of 128×128 with masks' in printed
    assert 'in another Unicode form than the file\'s: 1 (é); the files were found' in printed
    assert 'without a mask' not in printed


def beside(root: Path, shapes_root: Path, image: str, mask: str) -> None:
    """Images and masks in one folder for each split."""
    for split in ('train', 'val'):
        folder = root / {'train': 'train', 'val': 'valid'}[split]
        folder.mkdir(parents=True)
        for path in (shapes_root / split).iterdir():
            shutil.copy(path, folder / f'{path.stem}{image}.png')
            shutil.copy(shapes_root / 'semantic' / split / path.name, folder / f'{path.stem}{mask}.png')


@pytest.mark.parametrize(('image', 'mask'), [('', '_mask'), ('_sat', '_mask'), ('', '_label')])
def test_masks_beside_their_images(image: str, mask: str, config: Callable, shapes_root: Path, tmp_path: Path):
    """As Roboflow and DeepGlobe have them; of one suffix, so that a listing alone would take masks for images."""
    root = tmp_path / 'beside'
    beside(root, shapes_root, image, mask)
    (root / 'train' / '_classes.csv').write_text('Pixel Value, Class\n' + '\n'.join(f'{i}, {n}' for i, n in enumerate(NAMES)))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(root), ('train', 'val'))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == NAMES
    for mode in ('train', 'val'):
        found = {stem.removesuffix(image): mask for stem, mask in read(own, mode).items()}
        assert same(found, truth(shapes_root, mode))


def test_as_cityscapes_and_camvid_name_theirs(config: Callable, shapes_root: Path, tmp_path: Path):
    root = tmp_path / 'city'
    for split in ('train', 'val'):
        for folder in (split, f'{split}_labels'):
            (root / folder).mkdir(parents=True)
        for path in (shapes_root / split).iterdir():
            shutil.copy(path, root / split / f'{path.stem}_leftImg8bit.png')
            mask = shapes_root / 'semantic' / split / path.name
            shutil.copy(mask, root / f'{split}_labels' / f'{path.stem}_gtFine_labelIds.png')
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(root), ('train', 'val'))
    found = {stem.removesuffix('_leftImg8bit'): mask for stem, mask in read(own, 'val').items()}
    assert same(found, truth(shapes_root, 'val'))


def test_values_that_a_list_gives(config: Callable, pair: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    """Grey levels of a drawing: refused until a list says what they are."""
    values = np.array([0, 38, 75, 113, 255], np.uint8)
    for path in (pair / 'masks').iterdir():
        Image.fromarray(values[np.asarray(Image.open(path))]).save(path)
    (pair / 'classes.txt').unlink()
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('semanticfpn_ravlt_t'), str(pair), ('train', 'val'))
    assert 'masks hold the values 0, 38, 75, 113, 255, and classes are numbered from 0 without gaps' in capsys.readouterr().out
    (pair / 'classes.txt').write_text('\n'.join(f'{value}: {name}' for value, name in zip(values, NAMES, strict=True)))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(pair), ('train', 'val'))
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))


@pytest.mark.parametrize(('lines', 'told'), [
    (['__ignore__', *NAMES], ''),
    ([*NAMES[1:], 'hexagon'], 'value 0 is circle by '),
    (NAMES[1:], 'if 0 is the background, the list of classes lacks a first line "background"'),
])
def test_lists_of_labelme_and_without_a_background(lines: list[str], told: str, config: Callable, pair: Path,
                                                   shapes_root: Path, capsys: pytest.CaptureFixture):
    (pair / 'classes.txt').write_text('\n'.join(lines))
    own = config('semanticfpn_ravlt_t')
    if len(lines) == 4:
        with pytest.raises(UserError, match='marked ERROR'):
            use_data(own, str(pair), ('train', 'val'))
    else:
        use_data(own, str(pair), ('train', 'val'))
        assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))
    assert told in capsys.readouterr().out
    if '__ignore__' in lines:
        assert tuple(own.train_dataloader.dataset.metainfo.classes) == NAMES


def test_a_labelmap_without_colors(config: Callable, voc: Path, shapes_root: Path, capsys: pytest.CaptureFixture):
    """As datumaro writes it, with masks in Pascal VOC's colors."""
    colors = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)], np.uint8)
    for path in (voc / 'SegmentationClass').iterdir():
        Image.fromarray(colors[np.asarray(Image.open(shapes_root / 'semantic/train' / path.name))]).save(path)
    (voc / 'labelmap.txt').write_text('\n'.join(f'{name}:::' for name in NAMES))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(voc), ('train', 'val'))
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))


def test_two_classes_of_one_color(config: Callable, voc: Path):
    (voc / 'labelmap.txt').write_text('background:0,0,0::\ncircle:9,9,9::\nsquare:9,9,9::\n')
    with pytest.raises(UserError, match=r'labelmap.txt gives the color \(9, 9, 9\) to circle and square: each class needs'):
        use_data(config('semanticfpn_ravlt_t'), str(voc), ('train', 'val'))


def test_several_masks_for_one_image(config: Callable, pair: Path, capsys: pytest.CaptureFixture):
    shutil.copy(pair / 'masks/00000_mask.png', pair / 'masks/00000_1.png')
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('semanticfpn_ravlt_t'), str(pair), ('train', 'val'))
    assert 'images with several masks: 1 (00000: 00000_1.png, 00000_mask.png)' in capsys.readouterr().out


@pytest.mark.parametrize(('files', 'told'), [
    ({'data.yaml': 'names: [a]\nnc: 1', 'labels/train/a.txt': '0 .5 .5 .1 .1'},
     r'it holds files such as \S+ and no images: put the images that they are about beside them'),
    ({'a.json': '{"dm_format_version": "1.0", "items": []}'}, r'it holds datumaro\'s own annotations \(a.json\)'),
    ({'a.json': '[{"id": 1, "data": {}, "annotations": []}]'}, r'it holds Label Studio\'s JSON \(a.json\)'),
    ({'label_2/a.txt': 'Car 0 0 0 1 2 3 4', 'image_2/a.png': ''}, 'it holds annotations as KITTI writes them'),
    ({'captions_train.json': '{}'}, r'it holds captions \(captions_train.json\)'),
    ({'export.zip': 'PK'}, r'it holds an archive \(export.zip\): unpack it'),
])
def test_what_is_not_read_is_recognised(files: dict[str, str], told: str, config: Callable, tmp_path: Path):
    root = tmp_path / 'other'
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    with pytest.raises(UserError, match=told):
        use_data(config('retinanet_ravlt_t'), str(root), ('train', 'val'))


@pytest.mark.parametrize(('content', 'told'), [
    (b'PK\3\4', 'is a ZIP archive'), (b'\x1f\x8b', 'is compressed with gzip'), (b'<!DOCTYPE html>', 'is a web page or XML'),
    (b'version https://git-lfs.github.com/spec/v1', 'is a pointer of Git LFS')])
def test_what_bears_the_name_of_annotations(content: bytes, told: str, config: Callable, cvat: Path):
    (cvat / 'annotations/instances_default.json').write_bytes(content)
    with pytest.raises(UserError, match=told):
        use_data(config('retinanet_ravlt_t'), str(cvat), ('train', 'val'))
    with pytest.raises(UserError, match='is a file: give the folder'):
        use_data(config('retinanet_ravlt_t'), str(cvat / 'annotations/instances_default.json'), ('train', 'val'))


@pytest.mark.parametrize('names', [('1 cent', '2 cent', '5 cent', '10 cent', '50 cent'),
                                   ('1 wheel', '2 wheels', '3 wheels', '4 wheels', '8 wheels')])
def test_names_that_begin_with_numbers(names: tuple[str, ...], config: Callable, pair: Path, shapes_root: Path):
    (pair / 'classes.txt').write_text('\n'.join(names))
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(pair), ('train', 'val'))
    assert tuple(own.train_dataloader.dataset.metainfo.classes) == names
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))


def test_a_mask_that_belongs_to_another_image(config: Callable, pair: Path):
    """`00000_1` is an image of its own, whichever split it falls into."""
    shutil.copy(pair / 'images/00000.png', pair / 'images/00000_1.png')
    shutil.copy(pair / 'masks/00000_mask.png', pair / 'masks/00000_1_mask.png')
    use_data(config('semanticfpn_ravlt_t'), str(pair), ('train', 'val'))


def test_lists_with_suffixes(config: Callable, voc: Path, shapes_root: Path):
    for path in (voc / 'ImageSets/Segmentation').iterdir():
        path.write_text('\n'.join(f'{line}.png' for line in path.read_text().splitlines()))
    shutil.copy(voc / 'ImageSets/Segmentation/train.txt', voc / 'ImageSets/Segmentation/train_aug.txt')
    own = config('semanticfpn_ravlt_t')
    use_data(own, str(voc), ('train', 'val'))
    assert same(read(own, 'train') | read(own, 'val'), truth(shapes_root, 'train'))


def test_folders_by_class_are_refused(config: Callable, shapes_root: Path, tmp_path: Path):
    """As BUSI has them: `benign/a.png` with `benign/a_mask.png`."""
    for name in ('benign', 'malignant'):
        (tmp_path / 'busi' / name).mkdir(parents=True)
        for path in (shapes_root / 'val').iterdir():
            shutil.copy(path, tmp_path / 'busi' / name / path.name)
            shutil.copy(shapes_root / 'semantic/val' / path.name, tmp_path / 'busi' / name / f'{path.stem}_mask_1.png')
    with pytest.raises(UserError, match='could both be the all images and masks: leave one'):
        use_data(config('semanticfpn_ravlt_t'), str(tmp_path / 'busi'), ('train', 'val'))


def test_images_of_several_sizes_in_a_batch(config: Callable, ade: Path, capsys: pytest.CaptureFixture):
    """The demo's pipeline takes images as they are; those of the papers crop them."""
    for folder in ('images', 'annotations'):
        path = ade / folder / 'training/00000.png'
        Image.open(path).crop((0, 0, 100, 90)).save(path)
    with pytest.raises(UserError, match='marked ERROR'):
        use_data(config('demo/semanticfpn_ravlt_t_shapes'), str(ade), ('train', 'val'))
    assert ('ERROR     train: images of 2 sizes, and the config neither crops nor resizes them for batches of 8: take a config'
            in capsys.readouterr().out)
    use_data(config('semanticfpn_ravlt_t'), str(ade), ('train', 'val'))

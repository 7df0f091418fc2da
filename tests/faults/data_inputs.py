"""Bad images, annotations, masks and folders, each with the sentence that it ends in or the skip that is listed."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from bad_input import BadInput
from PIL import Image

DETECTOR = 'tests/faults/configs/tiny_detector.py'
SEGMENTOR = 'tests/faults/configs/tiny_segmentor.py'
SMALL = ['train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
SMALL_SEGMENTOR = ['train_dataloader.batch_size=4', 'train_cfg.max_iters=2', 'default_hooks.logger.interval=1']
AS_IT_IS = r'cannot be used as it is: [12] kinds? of defect marked ERROR in the report above'


def copied(folder: Path, shapes_root: Path) -> Path:
    return Path(shutil.copytree(shapes_root, folder / 'data'))


def train(folder: Path, *options: str, data: Path | None = None, config: str = DETECTOR, workers: int = 1,
          extra: tuple[str, ...] = ()) -> list[str]:
    """train.py on a folder inspected by `--data`, or, without it, on what the options name."""
    looked_at = ['--data', str(data)] if data else []
    small = SMALL if config == DETECTOR else SMALL_SEGMENTOR
    return ['tools/train.py', config, *looked_at, '--work-dir', str(folder / 'work'), '--no-validate', *extra,
            '--cfg-options', *small, f'train_dataloader.num_workers={workers}', *options]


def named_by_config(folder: Path, root: Path, config: str = DETECTOR, workers: int = 1, extra: tuple[str, ...] = ()) -> list[str]:
    """train.py with paths in the config, which nothing inspects before training."""
    return train(folder, f'train_dataloader.dataset.data_root={root}', config=config, workers=workers, extra=extra)


def png(width: int, height: int) -> bytes:
    """A whole black image of one bit a pixel, as large as one likes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    packer, line = zlib.compressobj(), bytes(1 + (width + 7) // 8)
    packed = b''.join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', packed) + chunk(b'IEND', b'')


def saved(values: np.ndarray, kind: str = 'PNG') -> bytes:
    stream = BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def image(content: bytes | Callable[[bytes], bytes] | None, workers: int = 1, by_config: bool = False) -> Callable:
    """All training images with other content, or with what a function makes of theirs, or gone."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        for path in (root / 'train').iterdir():
            old = path.read_bytes()
            path.unlink()
            if content is not None:
                path.write_bytes(content(old) if callable(content) else content)
        return named_by_config(folder, root, workers=workers) if by_config else train(folder, data=root, workers=workers)

    return make


def image_is_a_folder(folder: Path, shapes_root: Path) -> list[str]:
    root = copied(folder, shapes_root)
    for path in list((root / 'train').iterdir()):
        path.unlink()
        path.mkdir()
    return named_by_config(folder, root)


def changed(root: Path, part: str, change: Callable[[dict], object]) -> Path:
    """The annotation file of a part of a copy, after a change in place."""
    path = root / f'annotations/instances_{part}.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def annotations(change: Callable[[dict], object], by_config: bool = False) -> Callable:
    """Annotations of the training part after a change in place."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        changed(root, 'train', change)
        return named_by_config(folder, root) if by_config else train(folder, data=root)

    return make


def each_annotation(by_config: bool = False, **values: object) -> Callable:
    return annotations(lambda content: [entry.update(values) for entry in content['annotations']], by_config)


def validation(change: Callable[[dict], object]) -> Callable:
    """Annotations of the validation part after a change in place, in a config's own paths; one epoch trains before."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        path = changed(root, 'val', change)
        arguments = train(folder, *(f'{mode}_dataloader.dataset.data_root={root}' for mode in ('train', 'val')),
                          f'val_evaluator.ann_file={path}', 'train_cfg.val_interval=1')
        return [argument for argument in arguments if argument != '--no-validate']

    return make


def cameras(content: dict) -> None:
    """File names of two cameras, whose images bear the same numbers."""
    for i, entry in enumerate(content['images']):
        entry['file_name'] = f'cam{i % 2}\\{i // 2:05d}.png'


def text(content: bytes | Callable[[bytes], bytes], by_config: bool = False) -> Callable:
    """An annotation file with other bytes."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        path = root / 'annotations/instances_train.json'
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
        return named_by_config(folder, root) if by_config else train(folder, data=root)

    return make


def run_lengths(counts: object, size: tuple[int, int] = (128, 128)) -> dict:
    return dict(size=list(size), counts=counts)


def masks(content: bytes | Callable[[bytes], bytes] | None, by_config: bool = True, extra: tuple[str, ...] = (),
          count: int | None = None) -> Callable:
    """The first training masks, or all of them, with other content, or gone."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        for path in sorted((root / 'semantic/train').iterdir())[:count]:
            old = path.read_bytes()
            path.unlink()
            if content is not None:
                path.write_bytes(content(old) if callable(content) else content)
        if by_config:
            return named_by_config(folder, root, SEGMENTOR, extra=extra)
        return train(folder, data=root, config=SEGMENTOR, extra=extra)

    return make


def masks_as_jpeg(folder: Path, shapes_root: Path) -> list[str]:
    root = copied(folder, shapes_root)
    for path in list((root / 'semantic').rglob('*.png')):
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()
    return train(folder, data=root, config=SEGMENTOR)


def broken_list(folder: Path, shapes_root: Path) -> list[str]:
    root = copied(folder, shapes_root)
    (root / 'labelmap.txt').write_text('circle\nsquare:red::\n')
    return train(folder, data=root, config=SEGMENTOR)


def folder_with(parts: dict[str, str], config: str = DETECTOR) -> Callable:
    """A folder that has only some parts of the built-in data, where the layout says."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = folder / 'data'
        root.mkdir()
        for target, source in parts.items():
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (shapes_root / source).is_dir() else shutil.copy)(shapes_root / source, root / target)
        return train(folder, data=root, config=config)

    return make


def boxes_for_a_segmentor(folder: Path, shapes_root: Path) -> list[str]:
    root = copied(folder, shapes_root)
    shutil.rmtree(root / 'semantic')
    for split in ('train', 'val'):
        changed(root, split, lambda content: [annotation.update(segmentation=[]) for annotation in content['annotations']])
    return train(folder, data=root, config=SEGMENTOR)


def no_folder(folder: Path, shapes_root: Path) -> list[str]:
    return train(folder, data=folder / 'nowhere')


def a_file_as_folder(folder: Path, shapes_root: Path) -> list[str]:
    (folder / 'data.zip').write_bytes(b'PK')
    return train(folder, data=folder / 'data.zip')


def one_image(folder: Path, shapes_root: Path) -> list[str]:
    root = folder / 'data'
    shutil.copytree(shapes_root / 'train', root / 'images')
    content = json.loads((shapes_root / 'annotations/instances_train.json').read_text())
    content['images'] = content['images'][:1]
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] == content['images'][0]['id']]
    (root / 'annotations').mkdir()
    (root / 'annotations/instances_default.json').write_text(json.dumps(content))
    return [argument for argument in train(folder, data=root) if argument != '--no-validate']


def skipping(bad: int, limit: object, option: bool = True) -> Callable:
    """A training whose first `bad` images are cut short, with a limit of images that may be skipped."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        for path in sorted((root / 'train').iterdir())[:bad]:
            path.write_bytes(path.read_bytes()[:900])
        extra = ('--skip-bad-images', str(limit)) if option else ()
        options = () if option else (f'skip_bad_images={limit}',)
        return train(folder, *options, f'train_dataloader.dataset.data_root={root}', config=SEGMENTOR, extra=extra)

    return make


def check(prepare: Callable[[Path], object], config: str, *options: str) -> Callable:
    """check_data.py on a copy in which something is wrong."""

    def make(folder: Path, shapes_root: Path) -> list[str]:
        root = copied(folder, shapes_root)
        prepare(root)
        return ['tools/check_data.py', config, '--data', str(root), '--work-dir', str(folder / 'work'), *options]

    return make


def write_check_report_into_a_file(folder: Path, shapes_root: Path) -> list[str]:
    root = copied(folder, shapes_root)
    (folder / 'file').write_text('')
    return ['tools/check_data.py', DETECTOR, '--data', str(root), '--work-dir', str(folder / 'work'), '--out',
            str(folder / 'file' / 'report.json')]


GREY = np.full((128, 128), 3, np.uint8)
POLYGON = [10.0, 10.0, 60.0, 10.0, 60.0, 60.0]

IMAGES = [
    BadInput('empty image', image(b''), r'image \S+\.png is empty'),
    BadInput('empty image without workers', image(b'', workers=0), r'image \S+\.png is empty'),
    BadInput('image cut short', image(lambda old: old[:len(old) // 2]), r'image \S+\.png is damaged or cut short'),
    BadInput('text as image', image(b'<html>404 Not Found</html>'), r'\S+\.png is not an image'),
    BadInput('image with a hole', image(lambda old: old[:2000] + bytes(2000) + old[4000:]),
             r'image \S+\.png (cannot be decoded|is damaged)'),
    BadInput('image without end', image(lambda old: old[:-12]), r'image \S+\.png (cannot be decoded|is damaged)'),
    BadInput('folder as image', image_is_a_folder, r'image \S+\.png cannot be read \(.*directory'),
    BadInput('missing image', image(None, by_config=True), r'image \S+\.png does not exist, though the annotations name it'),
    BadInput('image of 1.6 gigapixels', image(png(40000, 40000), by_config=True), r'more pixels than OpenCV reads'),
    BadInput('image of 32-bit values', image(saved(GREY.astype(np.float32), 'TIFF'), by_config=True),
             r'a TIFF of 32 or 64 bits a value'),
    BadInput('image of another size', image(saved(GREY[:64]), by_config=True),
             r'is 128×64 pixels, not 128×128 as the annotations say'),
    BadInput('image of another size, inspected', image(saved(GREY[:64])), AS_IT_IS),
]
ANNOTATIONS = [
    BadInput('empty annotation file', text(b''), r'annotation file \S+ is empty'),
    BadInput('annotation file cut short', text(lambda old: old[:-300]), r'is not valid JSON .* was its download cut short'),
    BadInput('annotation file cut short, by config', text(lambda old: old[:-300], by_config=True), r'is not valid JSON'),
    BadInput('annotation file of bytes', text(bytes(range(128, 256))), r'annotation file \S+ is not (a text file|valid JSON)'),
    BadInput('annotation file of brackets', text(b'[' * 100_000), r'annotation file \S+ is not valid JSON'),
    BadInput('annotation file with a list', text(b'[1, 2]'),
             r'holds a list, not the object with images, annotations and categories'),
    BadInput('no list of images', annotations(lambda c: c.pop('images')), r'has no list "images"'),
    BadInput('no images', annotations(lambda c: c.update(images=[])), r'lists no images'),
    BadInput('no instances', annotations(lambda c: c.update(annotations=[])), r'has no instances'),
    BadInput('image without a name', annotations(lambda c: c['images'][3].pop('file_name')),
             r'without "file_name" in "images" \(number 3'),
    BadInput('image with a number as name', annotations(lambda c: c['images'][3].update(file_name=3), by_config=True),
             r'file_name that is no text'),
    BadInput('image ids used twice', annotations(lambda c: c['images'][1].update(id=1)), AS_IT_IS),
    BadInput('names of two cameras for one file', annotations(cameras), AS_IT_IS),
    BadInput('names of two cameras for one file, by config', annotations(cameras, by_config=True),
             r'has different names that lead to one file, such as \S+cam0\S+00000\.png and \S+cam1\S+00000\.png; the folders in'),
    BadInput('category ids used twice', annotations(lambda c: c['categories'][1].update(id=1)), AS_IT_IS),
    BadInput('annotation ids used twice, by config', each_annotation(by_config=True, id=1), r'uses an annotation id twice'),
    BadInput('annotations without area, by config',
             annotations(lambda c: [a.pop('area') for a in c['annotations']], by_config=True),
             r'without "area" in "annotations"'),
    BadInput('boxes of three numbers', each_annotation(bbox=[1, 2, 3]), r'has a bbox that is not four numbers'),
    BadInput('boxes of three numbers, by config', each_annotation(by_config=True, bbox=[1, 2, 3]),
             r'has a bbox that is not four numbers'),
    BadInput('boxes of NaN', each_annotation(bbox=[float('nan')] * 4), r'has a bbox that is not four numbers'),
    BadInput('two corners as box', each_annotation(bbox=[100, 100, 110, 110]), AS_IT_IS),
    BadInput('area as text', each_annotation(area='large'), r'an area that is no number'),
    BadInput('categories of another model',
             annotations(lambda c: [x.update(name=f'thing {x["id"]}') for x in c['categories']], by_config=True),
             r"categories must bear the names of the config's classes"),
    BadInput('no outlines', each_annotation(segmentation=[]), AS_IT_IS),
    BadInput('no outlines, by config', each_annotation(by_config=True, segmentation=[]), r'has a box but no mask'),
    BadInput('outlines that are flat lists', each_annotation(by_config=True, segmentation=POLYGON), r'is a flat list'),
    BadInput('outlines of NaN', each_annotation(by_config=True, segmentation=[[*POLYGON[:5], float('nan')]]),
             r'no finite numbers'),
    BadInput('outlines far away', each_annotation(by_config=True, segmentation=[[*POLYGON[:5], 1e12]]), r'far beyond its image'),
    BadInput('outlines of text', each_annotation(by_config=True, segmentation=[['a'] * 6]), r'values that are no numbers'),
    BadInput('outlines that begin with a point, evaluated',
             validation(lambda c: c['annotations'][1].update(segmentation=[[1, 2], POLYGON])),
             r'begins with, a polygon of fewer than three points, which cannot be evaluated'),
    BadInput('run lengths of another size', each_annotation(by_config=True, segmentation=run_lengths([64 * 64], (64, 64))),
             r'run lengths for size \[64, 64\]'),
    BadInput('run lengths for too few pixels', each_annotation(by_config=True, segmentation=run_lengths([10, 20])),
             r'for 30 pixels'),
    BadInput('compressed run lengths that are none', each_annotation(by_config=True, segmentation=run_lengths('~~~')),
             r'run lengths that cannot be read'),
    BadInput('run lengths that are none, inspected', each_annotation(segmentation=run_lengths('01P4PP')), AS_IT_IS),
]
FOLDERS = [
    BadInput('no folder', no_folder, r'folder \S+nowhere/? does not exist'),
    BadInput('a file as folder', a_file_as_folder, r'--data \S+data\.zip is a file: give the folder'),
    BadInput('an empty folder', folder_with({}), r'has no data for train and val|has no data for train'),
    BadInput('annotations without images', folder_with({'annotations': 'annotations'}),
             r'none of the images that \S+ names is there'),
    BadInput('masks for a detector', folder_with({'images/train': 'train', 'masks/train': 'semantic/train'}),
             r'this config is of a detector'),
    BadInput('boxes of COCO for a segmentor', boxes_for_a_segmentor, AS_IT_IS),
    BadInput('two annotation files for a part',
             folder_with({'annotations': 'annotations', 'train': 'train', 'val': 'val',
                          'annotations/instances_training.json': 'annotations/instances_train.json'}),
             r'could both be the train annotations'),
    BadInput('one image', one_image, r'has 1 image to train on and none to validate on'),
]
MASKS = [
    BadInput('mask of another size', masks(saved(GREY[:64])), r'mask \S+ is 128×64 pixels, its image 128×128'),
    BadInput('mask of another size, inspected', masks(saved(GREY[:64]), by_config=False), AS_IT_IS),
    BadInput('mask cut short', masks(lambda old: old[:-30]), r'mask \S+ cannot be read|mask \S+ is not an image, or damaged'),
    BadInput('text as mask', masks(b'no mask'), r'mask \S+ is not an image'),
    BadInput('missing mask', masks(None), r'mask \S+ of image \S+ does not exist'),
    BadInput('mask of 16-bit values', masks(saved(GREY.astype(np.uint16) * 300)), r'values that are not integers from 0 to 255'),
    BadInput('mask of 16-bit values, inspected', masks(saved(GREY.astype(np.uint16) * 300), by_config=False), AS_IT_IS),
    BadInput('coloured mask', masks(saved(np.dstack([GREY, GREY, GREY * 2]))), r'has 3 channels, where one holds the classes'),
    BadInput('coloured mask, inspected', masks(saved(np.dstack([GREY, GREY, GREY * 2])), by_config=False), AS_IT_IS),
    BadInput('mask of unknown classes', masks(saved(GREY * 30)), r'values outside the 5 classes: 90'),
    BadInput('masks saved as JPEG', masks_as_jpeg, r'cannot be used as it is'),
    BadInput('list of classes that is none', broken_list, r'labelmap\.txt is not a list of class names'),
]
SKIPS = [
    BadInput('skipped images', skipping(2, 5), r'SKIPPED, 1 of 5 allowed: image \S+ is damaged or cut short', listed_skip=True),
    BadInput('skipped images, by setting', skipping(3, 3, option=False), r'SKIPPED, 1 of 3 allowed: image', listed_skip=True),
    BadInput('skipped masks', masks(b'', extra=('--skip-bad-images', '4'), count=2),
             r'SKIPPED, 1 of 4 allowed: mask', listed_skip=True),
    BadInput('too many skipped images', skipping(8, 2), r'3 images cannot be used, and skip_bad_images allows 2'),
    BadInput('only bad images', skipping(12, 20), r'100 images in a row cannot be used'),
    BadInput('negative limit', skipping(0, -1), r'skip_bad_images must be a non-negative integer, got -1'),
    BadInput('limit as text', skipping(0, 'many', option=False), r"skip_bad_images must be a non-negative integer, got 'many'"),
]
CHECKS = [
    BadInput('check of a bad image', check(lambda root: (root / 'train/00003.png').write_bytes(b''), DETECTOR),
             r'1 file of \S+ cannot be used, see \S+data_report\.json'),
    BadInput('check of two bad masks',
             check(lambda root: [(root / f'semantic/val/{i:05d}.png').write_bytes(b'no') for i in (1, 2)], SEGMENTOR),
             r'2 files of \S+ cannot be used, see \S+data_report\.json'),
    BadInput('check without workers', check(lambda root: None, DETECTOR, '--workers', '0'),
             r'--workers 0: at least one is needed'),
    BadInput('report into a file', write_check_report_into_a_file, r'the report cannot be written to'),
]
DATA_CASES: list[BadInput] = IMAGES + ANNOTATIONS + FOLDERS + MASKS + SKIPS + CHECKS

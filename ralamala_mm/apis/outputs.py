"""Predictions into files: COCO's JSON, a table, masks as images, numbered as in the data set."""

import csv
import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor

from ralamala_mm.datasets.config import datasets_of
from ralamala_mm.errors import UserError
from ralamala_mm.files import UNFINISHED, atomic_write

from .drawing import Color
from .masks import RunLengths, area, encode

# COCO has 80 classes, numbered from 1 to 90 with gaps.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]
_COCO_ENDS = ('person', 'toothbrush')
_DETECTION_COLUMNS = ('image', 'frame', 'class', 'score', 'x', 'y', 'width', 'height', 'area')
_AREA_COLUMNS = ('image', 'frame', 'class', 'pixels', 'share')
_JPEG_QUALITY = 95
_OF_THE_PATH = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # and not the disk
# File names need not be UTF-8: what is not becomes an escape that JSON knows, and from which Python makes the name again.
_TEXT = dict(encoding='utf-8', errors='backslashreplace')


@dataclass
class IdTable:
    """Category ids by label, and image ids by a file's real path; images that the data set does not have get higher ones."""

    categories: list[int]
    images: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self._next = max((number for number in self.images.values() if isinstance(number, int)), default=0) + 1

    def image_id(self, path: str | None = None) -> int:
        """A number of its own for each image or frame."""
        known = self.images.pop(str(Path(path).resolve()), None) if path else None
        if known is not None:
            return known
        self._next += 1
        return self._next - 1


def id_table_of(config: Config, classes: Sequence[str]) -> IdTable:
    """Numbers of a detector's classes and images, as in the annotation file of the config's test part if it is there and has
    these classes; COCO's for COCO's classes; else from 1."""
    for _, dataset in datasets_of(config, ['test']):
        root = Path(dataset.get('data_root') or '')
        path = root / str(dataset.get('ann_file') or '')
        if path.suffix == '.json' and path.is_file():
            folder = root / (dataset.get('data_prefix') or {}).get('img', '')
            try:
                content = json.loads(path.read_text(encoding='utf-8'))
                by_name = {category['name']: category['id'] for category in content['categories']}
                images = {str((folder / image['file_name']).resolve()): image['id'] for image in content['images']}
            except (ValueError, TypeError, KeyError) as error:
                print_log(f'{path} cannot be read as annotations ({type(error).__name__}: {error}): its numbers of classes and '
                          'images are not used', 'current', logging.WARNING)
                continue
            if all(name in by_name for name in classes):
                return IdTable([by_name[name] for name in classes], images)
    if len(classes) == len(_COCO_IDS) and (classes[0], classes[-1]) == _COCO_ENDS:
        return IdTable(_COCO_IDS)
    return IdTable(list(range(1, len(classes) + 1)))


def mask_id_table(classes: Sequence[str], reduce_zero_label: bool) -> IdTable:
    """A segmentor's categories are numbered as the pixels of the data set's masks: from 1 where 0 is no class, as in ADE20K."""
    return IdTable([label + reduce_zero_label for label in range(len(classes))])


class Tables:
    """`predictions.json` and `predictions.csv` of a folder, filled image by image, and written when the block ends well.

    What comes in is kept in a temporary file, as a video has more detections than one may want in memory.

    Args:
        out_dir: made if it is not there.
        classes: names of the labels.
        palette: their colors.
        ids: their numbers, and those of images.
        info: what was run, for the head of the JSON.
        segments: the predictions are a segmentor's.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, out_dir: Path, classes: Sequence[str], palette: Sequence[Color], ids: IdTable, info: dict,
                 segments: bool):
        self.out_dir = out_dir
        self.classes = classes
        self.ids = ids
        self._columns = _AREA_COLUMNS if segments else _DETECTION_COLUMNS
        self._info = info
        self._categories = [dict(id=number, name=name, color=list(color))
                            for number, name, color in zip(ids.categories, classes, palette, strict=False)]
        self.counts = dict.fromkeys(classes, 0)  # of detections, or of pixels
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> 'Tables':
        try:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            folder = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix='.predictions.', suffix=UNFINISHED, dir=self.out_dir))
        except OSError as error:
            raise UserError(f'--out-dir {self.out_dir} cannot be written to ({error.strerror})') from error
        self._images = self._stack.enter_context(Path(folder, 'images').open('w+', **_TEXT))
        self._annotations = self._stack.enter_context(Path(folder, 'annotations').open('w+', **_TEXT))
        self._table_file = self._stack.enter_context(Path(folder, 'table').open('w', newline='', **_TEXT))
        self._table = csv.writer(self._table_file)
        self._table.writerow(self._columns)
        return self

    def add(self, sample: BaseDataElement, name: str, path: str | None = None, frame: int | None = None,
            mask: str | None = None) -> None:
        """Adds what was predicted for an image.

        Args:
            sample: of `predict`.
            name: of the image or video among the inputs.
            path: the image's file.
            frame: its number in a video, from 0.
            mask: the file of its mask in the folder, for a segmentor.
        """
        height, width = sample.ori_shape
        image = dict(id=self.ids.image_id(path), file_name=name, width=width, height=height)
        image |= {key: value for key, value in dict(frame=frame, mask=mask).items() if value is not None}
        self._images.write(json.dumps(image, ensure_ascii=False) + '\n')
        rows = self._areas(sample) if 'pred_sem_seg' in sample else self._detections(sample)
        for label, annotation, columns in rows:
            self._count += 1
            annotation = dict(id=self._count, image_id=image['id'], category_id=self.ids.categories[label]) | annotation
            self._annotations.write(json.dumps(annotation) + '\n')
            self._table.writerow([name, '' if frame is None else frame, self.classes[label], *columns])

    def _detections(self, sample: BaseDataElement) -> Iterator[tuple[int, dict, list]]:
        found = sample.pred_instances
        for i in found.scores.argsort(descending=True).tolist():
            label, score = int(found.labels[i]), round(float(found.scores[i]), 5)
            x1, y1, x2, y2 = found.bboxes[i].tolist()
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotation = dict(bbox=box, score=score, area=round(box[2] * box[3], 2), iscrowd=0)
            if 'masks' in found:
                mask = found.masks[i]
                annotation |= _segmentation(encode(mask.numpy()) if isinstance(mask, Tensor) else mask)
            self.counts[self.classes[label]] += 1
            yield label, annotation, [score, *box, annotation['area']]

    def _areas(self, sample: BaseDataElement) -> Iterator[tuple[int, dict, list]]:
        pixels = sample.pred_sem_seg.data[0].numpy()
        for label in np.unique(pixels).tolist():
            if label < len(self.classes):
                annotation = dict(_segmentation(encode(pixels == label)), iscrowd=0)
                self.counts[self.classes[label]] += annotation['area']
                yield label, annotation, [annotation['area'], round(annotation['area'] / pixels.size, 5)]

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        with self._stack:
            if kind is None:
                atomic_write(self.out_dir / 'predictions.json', self._write_json)
                self._table_file.flush()
                atomic_write(self.out_dir / 'predictions.csv', lambda path: shutil.copyfile(self._table_file.name, path))

    def _write_json(self, path: Path) -> None:
        with path.open('w', **_TEXT) as file:
            file.write(f'{{\n "info": {json.dumps(self._info, ensure_ascii=False)}')
            self._images.seek(0)
            self._annotations.seek(0)
            categories = (json.dumps(category, ensure_ascii=False) for category in self._categories)
            for name, lines in (('categories', categories), ('images', self._images), ('annotations', self._annotations)):
                file.write(f',\n "{name}": [')
                for i, line in enumerate(lines):
                    file.write((',\n  ' if i else '\n  ') + line.rstrip('\n'))
                file.write('\n ]')
            file.write('\n}\n')


def _segmentation(encoded: RunLengths) -> dict:
    return dict(segmentation=dict(size=list(encoded['size']), counts=encoded['counts'].decode()), area=area(encoded))


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image `[H, W, 3]` BGR or `[H, W]`, of the kind that the name ends with.

    Raises:
        UserError: it cannot be written.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix.lower() in ('.jpg', '.jpeg') else []
    is_encoded, content = cv2.imencode(path.suffix, image, options)
    if not is_encoded:
        raise UserError(f'image {path} cannot be written as {path.suffix}')
    try:
        atomic_write(path, lambda unfinished: unfinished.write_bytes(content.tobytes()))
    except OSError as error:
        if error.errno not in _OF_THE_PATH:
            raise
        raise UserError(f'image {path} cannot be written ({error.strerror})') from error


def write_mask(path: Path, sample: BaseDataElement, categories: Sequence[int]) -> None:
    """A segmentor's categories as a grey PNG, 255 where the class was not asked for; of 16 bits, and 65535, for categories
    from 255 on.

    Args:
        path: of the PNG.
        sample: of `predict`.
        categories: the number of each label.

    Raises:
        UserError: it cannot be written.
    """
    labels = sample.pred_sem_seg.data[0].numpy()
    dtype = np.uint8 if max(categories) < 255 else np.uint16
    values = np.array([*categories, np.iinfo(dtype).max], dtype)
    write_image(path, values[np.minimum(labels, len(categories))])


def write_colored(path: Path, sample: BaseDataElement, palette: Sequence[Color]) -> None:
    """A segmentor's labels as a PNG in the classes' colors, black where the class was not asked for."""
    labels = sample.pred_sem_seg.data[0].numpy()
    colors = np.array([*palette, (0, 0, 0)], np.uint8)[:, ::-1]
    write_image(path, colors[np.minimum(labels, len(palette))])


class VideoWriter:
    """An MP4 file that is filled frame by frame, and moved to its place when the block ends well.

    Args:
        path: ends with .mp4.
        frames_per_second: of the video.
    """

    def __init__(self, path: Path, frames_per_second: float):
        self.path = path
        self._rate = frames_per_second
        self._writer = None

    def __enter__(self) -> 'VideoWriter':
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A folder, as OpenCV tells the kind of file from the end of its name.
        self._folder = tempfile.TemporaryDirectory(prefix=f'.{self.path.name}.', suffix=UNFINISHED, dir=self.path.parent)
        self._file = Path(self._folder.name, self.path.name)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame `[H, W, 3]` BGR, made as large as the first one.

        Raises:
            UserError: OpenCV cannot write videos here.
        """
        if self._writer is None:
            self._size = frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self._file), cv2.VideoWriter_fourcc(*'mp4v'), self._rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f'video {self.path} cannot be written: this OpenCV has no encoder for MP4; --no-draw leaves '
                                'it out')
        self._writer.write(frame if frame.shape[1::-1] == self._size else cv2.resize(frame, self._size))

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._file.replace(self.path)
        self._folder.cleanup()

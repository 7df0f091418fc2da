"""The built-in data written as annotation tools and libraries export it: `EXPORTS` has a function for each format."""

import base64
import csv
import io
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from perfect import objects
from PIL import Image

SPLITS = ('train', 'val')
NAMES = ('circle', 'square', 'triangle', 'star')
SIDE = 128  # pixels of an image


@dataclass(frozen=True)
class Scene:
    """An image of the built-in data with its objects: class, box x1 y1 x2 y2, mask `[H, W]` uint8."""

    split: str
    name: str
    objects: list[tuple[str, tuple[float, ...], np.ndarray]]

    @property
    def stem(self) -> str:
        return Path(self.name).stem


def scenes(shapes: Path) -> Iterator[Scene]:
    for split in SPLITS:
        for name, found in sorted(objects(shapes, split).items()):
            yield Scene(split, name, found)


def copy_images(shapes: Path, folders: dict[str, Path]) -> None:
    for split, folder in folders.items():
        shutil.copytree(shapes / split, folder, dirs_exist_ok=True)


def shares(box: tuple[float, ...]) -> str:
    """Center and size, as YOLO writes them."""
    x1, y1, x2, y2 = (value / SIDE for value in box)
    return f'{(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}'


def lines_of(scene: Scene) -> str:
    return ''.join(f'{NAMES.index(name)} {shares(box)}\n' for name, box, _ in scene.objects)


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask * 255).save(buffer, format='PNG')
    return buffer.getvalue()


def cut(box: tuple[float, ...], mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Left, top and the part of a mask that has pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def write(path: Path, content: str | bytes | dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def ultralytics(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / 'images' / split for split in SPLITS})
    for scene in scenes(shapes):
        write(root / 'labels' / scene.split / f'{scene.stem}.txt', lines_of(scene))
    write(root / 'data.yaml', f'path: .\ntrain: images/train\nval: images/val\nnames: {dict(enumerate(NAMES))}\n')


def roboflow_yolo(shapes: Path, root: Path) -> None:
    """Whose paths start one folder higher than the file lies."""
    folders = dict(train='train', val='valid')
    copy_images(shapes, {split: root / folder / 'images' for split, folder in folders.items()})
    for scene in scenes(shapes):
        write(root / folders[scene.split] / 'labels' / f'{scene.stem}.txt', lines_of(scene))
    write(root / 'data.yaml', f'train: ../train/images\nval: ../valid/images\n\nnc: 4\nnames: {list(NAMES)}\n')


def yolo_of_each_split(shapes: Path, root: Path) -> None:
    """A data set of its own for each split, as supervision and labelformat write them."""
    for scene in scenes(shapes):
        write(root / scene.split / 'labels' / f'{scene.stem}.txt', lines_of(scene))
    for split in SPLITS:
        copy_images(shapes, {split: root / split / 'images'})
        write(root / split / 'data.yaml', f'train: images\nnc: 4\nnames: {list(NAMES)}\n')


def darknet(shapes: Path, root: Path) -> None:
    """As CVAT and datumaro export it: texts beside images, lists with a folder that is not there."""
    copy_images(shapes, {split: root / f'obj_{split}_data' for split in SPLITS})
    for scene in scenes(shapes):
        write(root / f'obj_{scene.split}_data' / f'{scene.stem}.txt', lines_of(scene))
    for split in SPLITS:
        names = [one.name for one in scenes(shapes) if one.split == split]
        write(root / f'{split}.txt', ''.join(f'data/obj_{split}_data/{name}\n' for name in names))
    write(root / 'obj.names', '\n'.join(NAMES))
    write(root / 'obj.data', 'classes = 4\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\n')


def label_img(shapes: Path, root: Path) -> None:
    """Nothing but a list of names beside the labels."""
    copy_images(shapes, {split: root / split for split in SPLITS})
    for scene in scenes(shapes):
        write(root / scene.split / f'{scene.stem}.txt', lines_of(scene))
    for split in SPLITS:
        write(root / split / 'classes.txt', '\n'.join(NAMES))


def voc_xml(scene: Scene, first: int = 0) -> str:
    entries = ''.join(
        f'<object><name>{escape(name)}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox><xmin>{x1 + first}</xmin>'
        f'<ymin>{y1 + first}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox><part><name>tip</name><bndbox><xmin>1</xmin>'
        f'<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>' for name, (x1, y1, x2, y2), _ in scene.objects)
    source = 'The VOC2012 Database' if first else 'Unknown'
    return (f'<annotation><folder>VOC</folder><filename>{scene.name}</filename><source><database>{source}</database></source>'
            f'<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>{entries}</annotation>')


def voc_devkit(shapes: Path, root: Path) -> None:
    """The challenge's own: lists, coordinates from 1, masks of objects with an outline of 255."""
    inside = root / 'VOC2012'
    stems = {split: [] for split in SPLITS}
    for scene in scenes(shapes):
        stem = f'{scene.split}_{scene.stem}'
        stems[scene.split].append(stem)
        (inside / 'JPEGImages').mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / scene.split / scene.name, inside / 'JPEGImages' / f'{stem}.png')
        write(inside / 'Annotations' / f'{stem}.xml',
              voc_xml(Scene(scene.split, f'{stem}.png', scene.objects), first=1))
        numbers = np.zeros((SIDE, SIDE), np.uint8)
        for i, (_, _, mask) in enumerate(scene.objects, 1):
            numbers[mask.astype(bool)] = i
        image = Image.fromarray(numbers)
        image.putpalette([value for color in range(256) for value in (color, 255 - color, color)])
        (inside / 'SegmentationObject').mkdir(exist_ok=True)
        image.save(inside / 'SegmentationObject' / f'{stem}.png')
    for split, names in stems.items():
        write(inside / f'ImageSets/Main/{split}.txt', '\n'.join(names))
        write(inside / f'ImageSets/Main/circle_{split}.txt', '\n'.join(f'{name} -1' for name in names))


def voc_beside(shapes: Path, root: Path) -> None:
    """As Roboflow exports it: XML files beside the images."""
    folders = dict(train='train', val='valid')
    copy_images(shapes, {split: root / folder for split, folder in folders.items()})
    for scene in scenes(shapes):
        write(root / folders[scene.split] / f'{scene.stem}.xml', voc_xml(scene))


def labelme(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / split for split in SPLITS})
    for scene in scenes(shapes):
        entries = []
        for name, box, mask in scene.objects:
            left, top, part = cut(box, mask)
            entries.append(dict(label=name, shape_type='mask', group_id=None, flags={}, mask=base64.b64encode(png(part)).decode(),
                                points=[[left, top], [left + part.shape[1] - 1, top + part.shape[0] - 1]]))
        entries += [dict(label='circle', shape_type='point', group_id=None, points=[[3, 4]]),
                    dict(label='__ignore__', shape_type='rectangle', group_id=None, points=[[1, 1], [9, 9]])]
        write(root / scene.split / f'{scene.stem}.json',
              dict(version='5.5.0', flags={}, shapes=entries, imagePath=f'..\\{scene.split}\\{scene.name}', imageData=None,
                   imageHeight=SIDE, imageWidth=SIDE))


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs row by row, of 0 first."""
    flat = mask.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def cvat_xml(shapes: Path, root: Path) -> None:
    subsets = dict(train='Train', val='Validation')
    copy_images(shapes, {split: root / 'images' / subset for split, subset in subsets.items()})
    images = []
    for i, scene in enumerate(scenes(shapes)):
        entries = []
        for j, (name, (x1, y1, x2, y2), mask) in enumerate(scene.objects, 1):
            left, top, part = cut((x1, y1, x2, y2), mask)
            entries.append(f'<mask label={quoteattr(name)} source="manual" occluded="0" group_id="{j}" '
                           f'rle="{", ".join(map(str, runs(part)))}" left="{left}" top="{top}" width="{part.shape[1]}" '
                           f'height="{part.shape[0]}" z_order="0"></mask>'
                           f'<box label={quoteattr(name)} occluded="0" group_id="{j}" xtl="{x1}" ytl="{y1}" xbr="{x2}" '
                           f'ybr="{y2}"/>')
        entries.append('<polyline label="circle" points="1.0,2.0;3.0,4.0" z_order="0"></polyline><tag label="star"></tag>')
        images.append(f'<image id="{i}" name="{scene.name}" subset="{subsets[scene.split]}" width="{SIDE}" height="{SIDE}">'
                      f'{"".join(entries)}</image>')
    labels = ''.join(f'<label><name>{name}</name><attributes></attributes></label>' for name in NAMES)
    write(root / 'annotations.xml', f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><project>'
          f'<labels>{labels}</labels></project></meta>{"".join(images)}</annotations>')


def labelme_xml(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / 'Images' / split for split in SPLITS})
    for scene in scenes(shapes):
        entries = []
        for i, (name, (x1, y1, x2, y2), mask) in enumerate(scene.objects):
            corners = ''.join(f'<pt><x>{x}</x><y>{y}</y></pt>' for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)))
            start, mask_name = f'<object><name>{name}</name><deleted>0</deleted>', f'{scene.stem}_mask_{i}.png'
            write(root / 'Masks' / scene.split / mask_name, png(mask))
            entries.append(f'{start}<id>{2 * i}</id><parts><ispartof></ispartof></parts><segm><mask>{mask_name}</mask></segm>'
                           '</object>'
                           f'{start}<id>{2 * i + 1}</id><parts><ispartof>{2 * i}</ispartof></parts>'
                           f'<type>bounding_box</type><polygon>{corners}</polygon></object>'
                           f'<object><name>{name}</name><deleted>1</deleted><id>99</id><polygon>{corners}</polygon></object>')
        write(root / 'Annotations' / scene.split / f'{scene.stem}.xml',
              f'<annotation><filename>{scene.name}</filename><folder>{scene.split}</folder><imagesize><nrows>{SIDE}</nrows>'
              f'<ncols>{SIDE}</ncols></imagesize>{"".join(entries)}</annotation>')


def open_images(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / 'images' / split for split in SPLITS})
    codes = {name: f'/m/0{i}' for i, name in enumerate(NAMES)}
    rows = {split: [] for split in SPLITS}
    masks = {split: [] for split in SPLITS}
    for scene in scenes(shapes):
        for i, (name, box, mask) in enumerate(scene.objects):
            x1, y1, x2, y2 = (value / SIDE for value in box)
            rows[scene.split].append([scene.stem, 'xclick', codes[name], 1, x1, x2, y1, y2, 0, 0, 0, 0, 0])
            file = f'{scene.stem}_{i}.png'
            write(root / 'masks' / scene.split / file, png(mask))
            masks[scene.split].append([file, scene.stem, codes[name], f'{i}', x1, x2, y1, y2, 0.9, ''])
    for split, folder in (('train', 'train'), ('val', 'validation')):
        write_csv(root / f'annotations/{folder}-annotations-bbox.csv', rows[split],
                  'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside')
        write_csv(root / f'annotations/{folder}-annotations-object-segmentation.csv', masks[split],
                  'MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks')
    write_csv(root / 'annotations/class-descriptions-boxable.csv', [[code, name] for name, code in codes.items()])


def write_csv(path: Path, rows: list[list], header: str = '') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([header.split(','), *rows] if header else rows)


def createml(shapes: Path, root: Path) -> None:
    folders = dict(train='train', val='valid')
    copy_images(shapes, {split: root / folder for split, folder in folders.items()})
    for split, folder in folders.items():
        write(root / folder / '_annotations.createml.json', [
            dict(image=scene.name, annotations=[
                dict(label=name, coordinates=dict(x=(x1 + x2) / 2, y=(y1 + y2) / 2, width=x2 - x1, height=y2 - y1))
                for name, (x1, y1, x2, y2), _ in scene.objects]) for scene in scenes(shapes) if scene.split == split])


def supervisely(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / split / 'img' for split in SPLITS})
    write(root / 'meta.json', dict(classes=[dict(title=name, shape='bitmap', color='#FF0000') for name in NAMES] + [
        dict(title='tip', shape='point', color='#00FF00')], tags=[]))
    for scene in scenes(shapes):
        entries = []
        for name, box, mask in scene.objects:
            left, top, part = cut(box, mask)
            entries.append(dict(classTitle=name, geometryType='bitmap', tags=[], bitmap=dict(
                origin=[left, top], data=base64.b64encode(zlib.compress(png(part))).decode())))
        entries.append(dict(classTitle='tip', geometryType='point', tags=[], points=dict(exterior=[[5, 5]], interior=[])))
        write(root / scene.split / 'ann' / f'{scene.name}.json',
              dict(description='', tags=[], size=dict(height=SIDE, width=SIDE), objects=entries))


def via(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / split for split in SPLITS})
    for split in SPLITS:
        regions = {scene.name: [dict(shape_attributes=dict(name='rect', x=x1, y=y1, width=x2 - x1, height=y2 - y1),
                                     region_attributes=dict(kind=name)) for name, (x1, y1, x2, y2), _ in scene.objects]
                   for scene in scenes(shapes) if scene.split == split}
        write(root / split / 'via_region_data.json', {f'{name}1234': dict(filename=name, size=1234, regions=entries)
                                                      for name, entries in regions.items()})


def panoptic(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / split for split in SPLITS})
    categories = [dict(id=10 + i, name=name, isthing=1) for i, name in enumerate(NAMES)] + [dict(id=90, name='wall', isthing=0)]
    for split in SPLITS:
        images, annotations = [], []
        for i, scene in enumerate((one for one in scenes(shapes) if one.split == split), 1):
            images.append(dict(id=i, file_name=scene.name, width=SIDE, height=SIDE))
            numbers = np.full((SIDE, SIDE), 70_000, np.uint32)
            segments = [dict(id=70_000, category_id=90, iscrowd=0, area=1, bbox=[0, 0, 1, 1])]
            for j, (name, _, mask) in enumerate(scene.objects, 1):
                numbers[mask.astype(bool)] = 300 * j
                segments.append(dict(id=300 * j, category_id=10 + NAMES.index(name), iscrowd=0, area=1, bbox=[0, 0, 1, 1]))
            colors = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8)
            path = root / f'annotations/panoptic_{split}/{scene.stem}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colors).save(path)
            annotations.append(dict(image_id=i, file_name=path.name, segments_info=segments))
        write(root / f'annotations/panoptic_{split}.json', dict(images=images, annotations=annotations, categories=categories))


def object_masks(shapes: Path, root: Path) -> None:
    copy_images(shapes, {split: root / split / 'images' for split in SPLITS})
    for scene in scenes(shapes):
        for i, (name, _, mask) in enumerate(scene.objects):
            write(root / scene.split / 'masks' / f'{scene.stem}_{name}_{i}.png', png(mask))


Export = Callable[[Path, Path], None]
WITH_MASKS: dict[Export, str] = {
    voc_devkit: 'Pascal VOC format', labelme: 'labelme format', cvat_xml: 'CVAT\'s XML format', labelme_xml: 'LabelMe XML format',
    open_images: 'Open Images format', supervisely: 'Supervisely format', panoptic: 'COCO panoptic format',
    object_masks: 'images with one mask for each object'}
WITH_BOXES: dict[Export, str] = {
    ultralytics: 'YOLO format (data.yaml)', roboflow_yolo: 'YOLO format (data.yaml)', darknet: 'YOLO format (obj.data)',
    yolo_of_each_split: 'YOLO format (train/data.yaml and val/data.yaml)', label_img: 'YOLO format',
    voc_beside: 'Pascal VOC format', createml: 'CreateML format', via: 'VIA format'}
EXPORTS = WITH_MASKS | WITH_BOXES  # and what the report calls each

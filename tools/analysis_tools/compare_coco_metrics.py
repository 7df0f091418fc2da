"""Seconds that COCO's metrics take by MMDetection's metric and by ours, on made-up predictions:  compare_coco_metrics.py"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmdet.evaluation import CocoMetric
from pycocotools import mask as masks

from ralamala_mm.engine import run
from ralamala_mm.engine.coco_metric import FasterCocoMetric
from ralamala_mm.errors import UserError

HEIGHT, WIDTH = 480, 640  # pixels
OBJECTS = 7  # an image on average, as in COCO
CROWDS = 0.05  # share of the objects; COCO has 0.01
MISSED = 0.02  # share of the images without a prediction

Results = list[tuple[dict, dict]]  # (ground truth, prediction) of each image, as CocoMetric.process collects them


def make_annotations(images: int, classes: int, seed: int = 0) -> dict:
    """The content of an annotation file: ellipses from 4 to 300 pixels, some of them crowds, none of the last class."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        boxes = _boxes(rng, rng.integers(0, 2 * OBJECTS + 1))
        for box in boxes:
            crowd = rng.random() < CROWDS
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image, category_id=int(rng.integers(1, max(classes, 2))), bbox=box.tolist(),
                area=float(np.pi / 4 * box[2] * box[3]), iscrowd=int(crowd),
                segmentation=_uncompressed(box) if crowd else [_outline(box)]))
    return dict(images=[dict(id=image, height=HEIGHT, width=WIDTH, file_name=f'{image}.jpg') for image in range(images)],
                annotations=annotations, categories=[dict(id=i + 1, name=f'class {i + 1}') for i in range(classes)])


def make_results(content: dict, detections: int, seed: int = 0) -> Results:
    """Predictions for `make_annotations`: some near the objects, the rest anywhere; scores of two digits, so that some tie."""
    rng = np.random.default_rng(seed)
    objects: dict[int, list[dict]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        objects[annotation['image_id']].append(annotation)
    results = []
    for image, found in objects.items():
        count = 0 if rng.random() < MISSED else detections
        near = [found[i] for i in rng.integers(0, len(found), min(count, 2 * len(found)))] if found else []
        boxes = np.concatenate([np.array([a['bbox'] for a in near]).reshape(-1, 4) * rng.uniform(0.9, 1.1, (len(near), 4)),
                                _boxes(rng, count - len(near))])
        boxes[:, 2:] = np.minimum(boxes[:, 2:], [WIDTH, HEIGHT] - boxes[:, :2]).clip(1)
        labels = rng.integers(0, len(content['categories']), count)
        labels[:len(near)] = [a['category_id'] - 1 for a in near]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        results.append((dict(img_id=image, height=HEIGHT, width=WIDTH), dict(
            img_id=image, bboxes=corners.astype(np.float32), labels=labels,
            scores=rng.random(count).round(2).astype(np.float32),
            masks=masks.frPyObjects([_outline(box) for box in boxes], HEIGHT, WIDTH) if count else [])))
    return results


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """`[count, 4]`, x y width height in pixels within the image."""
    sizes = np.exp(rng.uniform(np.log(4), np.log(300), (count, 2)))
    return np.concatenate([rng.random((count, 2)) * ([WIDTH, HEIGHT] - sizes), sizes], axis=1).round(2)


def _outline(box: np.ndarray) -> list[float]:
    """The ellipse in a box as a polygon of twelve corners."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points = box[:2] + box[2:] / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return points.round(2).ravel().tolist()


def _uncompressed(box: np.ndarray) -> dict:
    """The ellipse in a box run-length encoded as COCO writes its crowds."""
    pixels = masks.decode(masks.frPyObjects([_outline(box)], HEIGHT, WIDTH))[:, :, 0].ravel(order='F')
    changes = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *changes, len(pixels)]).tolist()
    return dict(size=[HEIGHT, WIDTH], counts=[0, *counts] if pixels[0] else counts)


def build_metrics(path: Path, content: dict, **options) -> dict[str, CocoMetric]:
    """Both ways of computing the metrics of boxes and masks, by name.

    Not `use_mp_eval`: its eight processes each copy all predictions, some 3 GB for val2017, and take longer.

    Args:
        path: where to write the annotations.
        content: of `make_annotations`.
        options: of `CocoMetric`.
    """
    path.write_text(json.dumps(content))
    options = dict(options, ann_file=str(path), metric=['bbox', 'segm'])
    metrics = {'CocoMetric': CocoMetric(**options), 'FasterCocoMetric': FasterCocoMetric(**options)}
    for metric in metrics.values():
        metric.dataset_meta = dict(classes=tuple(category['name'] for category in content['categories']))
    return metrics


def compare_metrics(images: int, classes: int, detections: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """(way, seconds, metrics) for both ways of computing them, one after the other."""
    content = make_annotations(images, classes)
    quiet = io.StringIO()  # pycocotools prints what it does
    with TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(quiet):
            metrics = build_metrics(Path(folder, 'annotations.json'), content)
        for name, metric in metrics.items():
            results = make_results(content, detections)  # anew, as pycocotools changes what it is given
            begun = time.perf_counter()
            with contextlib.redirect_stdout(quiet):
                values = metric.compute_metrics(results)
            yield name, time.perf_counter() - begun, values


def main(args: argparse.Namespace) -> None:
    if min(args.images, args.classes, args.detections) < 1:
        raise UserError('--images, --classes and --detections must be 1 or more')
    print('| metric | seconds | time / CocoMetric | values |\n|-|-|-|-|')
    first = None
    for name, seconds, values in compare_metrics(args.images, args.classes, args.detections):
        first = first or (seconds, values)
        told = 'the same' if values == first[1] else values
        print(f'| {name} | {seconds:.1f} | {seconds / first[0]:.2f} | {told} |', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--images', type=int, default=5000, help='images; COCO val2017 has 5000')
    parser.add_argument('--classes', type=int, default=80, help='object classes')
    parser.add_argument('--detections', type=int, default=100, help='predictions in each image')
    run(parser, main)

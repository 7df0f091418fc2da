"""The built-in data: images of overlapping shapes on textured backgrounds, in COCO's and ADE20K's layout.

Exact by construction: a shape is drawn from a mask, and the part of it that later shapes leave visible is its
annotation. Every scene depends on its own seed alone, so that splits share no scene and any number can be made.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from pycocotools import mask as coco_mask

CATEGORIES = ('circle', 'square', 'triangle', 'star')
MIN_VISIBLE = 0.4  # share of a shape that must stay in sight; more covered ones are left out of the scene
MIN_COLOR_DISTANCE = 80  # of 255, between a shape and the background, so that every shape can be seen
SUPERSAMPLING = 4  # masks are drawn this many times larger and thresholded at half coverage
SPLIT_SEEDS = {'train': 0, 'val': 1}


@dataclass
class Scene:
    """One image: `image` `[H, W, 3]` BGR uint8, and for every shape its category index and visible mask `[H, W]`."""

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def regular_polygon(points: int, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, `[points, 2]`; every second one is drawn in to radius `inner`."""
    angle = 2 * np.pi * np.arange(points) / points
    radius = np.where(np.arange(points) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


POLYGONS = {
    'circle': regular_polygon(48),
    'square': regular_polygon(4),
    'triangle': regular_polygon(3),
    'star': regular_polygon(10, inner=0.42),
}


def draw_mask(category: str, size: int, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Boolean `[size, size]` mask of a turned shape; parts outside the image are cut off."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = (POLYGONS[category] @ turn.T * radius + centre) * SUPERSAMPLING
    canvas = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
    cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) >= 128


def pick_color(rng: Generator, away_from: np.ndarray | None = None) -> np.ndarray:
    """Three channels; at least one differs clearly from the color `away_from`."""
    while True:
        color = rng.uniform(30, 225, 3)
        if away_from is None or np.abs(color - away_from).max() >= MIN_COLOR_DISTANCE:
            return color


def texture(rng: Generator, size: int, color: np.ndarray, contrast: float) -> np.ndarray:
    """Float `[size, size, 3]`: a color with stripes of random direction and grain over it."""
    y, x = np.mgrid[:size, :size] / size
    direction, frequency = rng.uniform(0, np.pi), rng.uniform(2, 10)
    stripes = np.sin(2 * np.pi * frequency * (x * np.cos(direction) + y * np.sin(direction)) + rng.uniform(0, 2 * np.pi))
    grain = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 1.5) * 2
    return color + contrast * (stripes + grain)[:, :, None] * rng.uniform(0.4, 1, 3)


def make_scene(seed: tuple[int, ...], size: int) -> Scene:
    """Draws two to five shapes over one another."""
    rng = np.random.default_rng(seed)
    background = pick_color(rng)
    image = texture(rng, size, background, contrast=22)
    placed: list[tuple[int, np.ndarray, int]] = []  # label, visible mask, area when drawn
    for _ in range(rng.integers(2, 6)):
        label = int(rng.integers(len(CATEGORIES)))
        radius = rng.uniform(0.13, 0.26) * size
        mask = draw_mask(CATEGORIES[label], size, rng.uniform(0.1, 0.9, 2) * size, radius, rng.uniform(0, 2 * np.pi))
        remaining = [(kind, visible & ~mask, area) for kind, visible, area in placed]
        if not mask.any() or any(visible.sum() < MIN_VISIBLE * area for _, visible, area in remaining):
            continue
        placed = [*remaining, (label, mask, int(mask.sum()))]
        image = np.where(mask[:, :, None], texture(rng, size, pick_color(rng, background), contrast=14), image)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    return Scene(image, [label for label, _, _ in placed], [visible for _, visible, _ in placed])


def scene_annotations(scene: Scene, image_id: int) -> Iterator[dict]:
    """COCO annotations without their ids: exact masks as run lengths, tight boxes in x, y, width, height."""
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        yield dict(image_id=image_id, category_id=label + 1, iscrowd=0, area=float(coco_mask.area(encoded)),
                   bbox=[float(value) for value in coco_mask.toBbox(encoded)],
                   segmentation=dict(size=encoded['size'], counts=encoded['counts'].decode()))


def semantic_mask(scene: Scene) -> np.ndarray:
    """`[H, W]` uint8: 0 for the background, 1… for the categories, each pixel of what lies on top."""
    labels = np.zeros(scene.image.shape[:2], np.uint8)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        labels[mask] = label + 1
    return labels


def make_shapes(root: Path, train: int = 400, val: int = 100, size: int = 128, seed: int = 0) -> bool:
    """Writes the data set, unless the same one is there already.

    Layout: `train/*.png`, `val/*.png`, `annotations/instances_{train,val}.json` (COCO instances) and
    `semantic/{train,val}/*.png` (0 background, 1… categories).

    Args:
        root: folder to write to.
        train: number of training scenes.
        val: number of validation scenes, none of which is a training scene.
        size: height and width of the images in pixels.
        seed: another seed gives other scenes.

    Returns:
        Whether anything was written.
    """
    counts = dict(train=train, val=val)
    # What `dataset.json` says of a made data set; the same text means the same files.
    summary = json.dumps(dict(categories=CATEGORIES, image_size=size, format=1, seed=seed, **counts), indent=1)
    marker = root / 'dataset.json'
    if marker.exists() and marker.read_text() == summary:
        return False
    for split, count in counts.items():
        images, annotations = [], []
        folders = {'image': root / split, 'semantic': root / 'semantic' / split, 'json': root / 'annotations'}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            scene, name = make_scene((seed, SPLIT_SEEDS[split], i), size), f'{i:05d}.png'
            cv2.imwrite(str(folders['image'] / name), scene.image)
            cv2.imwrite(str(folders['semantic'] / name), semantic_mask(scene))
            images.append(dict(id=i + 1, file_name=name, height=size, width=size))
            annotations += scene_annotations(scene, image_id=i + 1)
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CATEGORIES)]
        numbered = [dict(annotation, id=i + 1) for i, annotation in enumerate(annotations)]
        content = dict(images=images, annotations=numbered, categories=categories)
        (folders['json'] / f'instances_{split}.json').write_text(json.dumps(content))
    marker.write_text(summary)  # last, so that an interrupted run is made again
    return True

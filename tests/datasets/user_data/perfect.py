"""Perfect predictions: what a config's own evaluator gives for the truth, and how many objects a training gets."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from pycocotools import mask as masks


def objects(root: Path, split: str) -> dict[str, list[tuple]]:
    """(class, box x1 y1 x2 y2, mask) of each object by the name of its image, from a sound file."""
    content = json.loads((root / f'annotations/instances_{split}.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    found = {image['file_name']: [] for image in content['images']}
    by_id = {image['id']: image for image in content['images']}
    for annotation in content['annotations']:
        image, (x, y, width, height) = by_id[annotation['image_id']], annotation['bbox']
        found[image['file_name']].append((names[annotation['category_id']], (x, y, x + width, y + height),
                                          mask_of(annotation, (image['height'], image['width']))))
    return found


def mask_of(annotation: dict, size: tuple[int, int]) -> np.ndarray:
    """`[H, W]` uint8."""
    outline = annotation['segmentation']
    return masks.decode(masks.merge(masks.frPyObjects(outline, *size)) if isinstance(outline, list) else outline)


def perfect(config: Config, truth: dict[str, list[tuple]]) -> dict[str, float]:
    """The scores that the config's own evaluator gives for the truth as predictions."""
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

    settings, classes = config.val_dataloader.dataset, config.val_dataloader.dataset.metainfo.classes
    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        dataset = registry.build(dict(settings, pipeline=[]))
    with METRICS.switch_scope_and_registry('mmdet') as registry:
        metric = registry.build(config.val_evaluator)
    metric.dataset_meta = dict(classes=classes)
    logging.disable(logging.CRITICAL)
    try:
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            found = truth[Path(info['img_path']).name]
            size = (info['height'], info['width'])
            predicted = dict(bboxes=torch.tensor([box for _, box, _ in found]).reshape(-1, 4), scores=torch.ones(len(found)),
                             labels=torch.tensor([classes.index(name) for name, _, _ in found]),
                             masks=torch.tensor(np.array([mask for _, _, mask in found]).reshape(-1, *size)).bool())
            metric.process({}, [dict(img_id=info['img_id'], ori_shape=size, pred_instances=predicted)])
        return metric.evaluate(len(dataset))
    finally:
        logging.disable(logging.NOTSET)


def trained_on(config: Config) -> int:
    """Objects that MMDetection's data set gives to a training, ignored ones left out."""
    import mmdet.datasets  # noqa: F401

    with DATASETS.switch_scope_and_registry('mmdet') as registry:
        dataset = registry.build(dict(config.train_dataloader.dataset, pipeline=[]))
    return sum(not one['ignore_flag'] for i in range(len(dataset)) for one in dataset.get_data_info(i)['instances'])


def in_file(root: Path, split: str) -> int:
    return len(json.loads((root / f'annotations/instances_{split}.json').read_text())['annotations'])

"""Predictions beside the ground truth, as one sheet of images."""

from pathlib import Path

import cv2
import torch
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import DataLoader

from ralamala_mm.apis.drawing import draw_instances, palette_of, read_image, resize, side_by_side, tile

SIDE = 384  # pixels of an image's longer side on a sheet, so that names and scores can be read


def draw_predictions(model: nn.Module, loader: DataLoader, path: Path, count: int = 12, columns: int = 3,
                     score: float = 0.4) -> None:
    """Writes a sheet of the first `count` images, each with ground truth left and prediction right.

    Args:
        model: a detector.
        loader: of validation or test images.
        path: the image file to write.
        count: how many images.
        columns: pairs per row.
        score: predictions below it are not drawn.
    """
    dataset = loader.dataset
    classes, palette = dataset.metainfo['classes'], palette_of(dataset.metainfo)
    model.eval()
    pairs = []
    for i in range(min(count, len(dataset))):
        # A data set in test mode hands the annotations out to the metric only; the drawing needs them too.
        data = loader.collate_fn([dataset[i]])
        with torch.no_grad():
            sample = model.test_step(data)[0].cpu()
        image = read_image(sample.img_path)
        larger = resize(image, SIDE)
        scale = max(larger.shape[:2]) / max(image.shape[:2])
        found = sample.pred_instances[sample.pred_instances.scores >= score]
        pairs.append(side_by_side(*(draw_instances(larger, scaled(instances, scale), classes, palette)
                                    for instances in (sample.gt_instances, found))))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(tile(pairs, columns, gap=32), cv2.COLOR_RGB2BGR))


def scaled(instances: InstanceData, factor: float) -> InstanceData:
    """Instances with their boxes in pixels of an enlarged image; masks fit an image of any size."""
    larger = instances.clone()
    larger.bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes) * factor
    return larger

"""Predictions beside the ground truth, as one sheet of pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData

ENLARGEMENT = 3  # small pictures are drawn larger, so that names and scores can be read


def draw_predictions(runner: Runner, path: Path, count: int = 12, columns: int = 3, score: float = 0.4) -> None:
    """Writes a sheet of the first `count` test pictures, each with ground truth left and prediction right.

    Args:
        runner: a runner of a detection config, its weights loaded.
        path: the picture to write.
        count: how many pictures.
        columns: pairs per row.
        score: predictions below it are not drawn.
    """
    dataset = runner.test_loop.dataloader.dataset
    runner.visualizer.dataset_meta = dataset.metainfo
    runner.model.eval()
    pairs = []
    for i in range(min(count, len(dataset))):
        # A data set in test mode hands the annotations out to the metric only; the picture needs them too.
        data = runner.test_loop.dataloader.collate_fn([dataset[i]])
        with torch.no_grad():
            sample = runner.model.test_step(data)[0]
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        shown = sample.cpu().clone()
        shown.pred_instances = enlarge(shown.pred_instances[shown.pred_instances.scores > score], ENLARGEMENT)
        shown.gt_instances = enlarge(shown.gt_instances, ENLARGEMENT)
        image = cv2.resize(image, None, fx=ENLARGEMENT, fy=ENLARGEMENT, interpolation=cv2.INTER_NEAREST)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*polygon is out of bounds')  # an outline on the picture's edge
            runner.visualizer.add_datasample('pair', image, shown, draw_gt=True, draw_pred=True, show=False)
        pairs.append(runner.visualizer.get_image())
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(tile(pairs, columns), cv2.COLOR_RGB2BGR))


def enlarge(instances: InstanceData, factor: int) -> InstanceData:
    """Boxes and masks in a picture enlarged by a whole factor."""
    larger = instances.clone()
    larger.bboxes = instances.bboxes * factor
    if 'masks' in instances:
        masks = getattr(instances.masks, 'masks', instances.masks)  # BitmapMasks of the ground truth, or an array
        larger.masks = np.repeat(np.repeat(np.asarray(masks), factor, axis=-2), factor, axis=-1).astype(bool)
    return larger


def tile(pictures: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Pictures `[h, w, 3]` side by side on white, in rows of `columns`; smaller ones are padded."""
    height = max(picture.shape[0] for picture in pictures) + gap
    width = max(picture.shape[1] for picture in pictures) + gap
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        sheet[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
    return sheet

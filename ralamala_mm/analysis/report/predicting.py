"""Predictions of a run's weights on its validation data, beside the annotations."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset, Subset

from ralamala_mm.analysis.detections import DetectedImage, Objects, compressed
from ralamala_mm.analysis.samples import build_dataset, spread
from ralamala_mm.apis import load_model
from ralamala_mm.apis.drawing import palette_of
from ralamala_mm.apis.masks import encode
from ralamala_mm.checkpoints import read_checkpoint, recorded_classes
from ralamala_mm.checkpoints.integrity import damage, newest_complete
from ralamala_mm.datasets import check_paths, use_data
from ralamala_mm.datasets.progress import Progress
from ralamala_mm.engine import DependableRunner, checkpoint_folder
from ralamala_mm.errors import UserError

from .runs import Run


@dataclass
class SegmentedImage:
    """An image's file with its annotated and predicted classes as PNG files `[h, w]`, 255 where nothing is annotated."""

    path: str
    truth: bytes
    predicted: bytes


@dataclass
class Predictions:
    """What one run's weights find in the images that they were tried on."""

    checkpoint: Path
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    of: int  # how many validation images there are
    has_masks: bool = False
    without_masks: list[str] = field(default_factory=list)  # where masks are predicted, and annotated are boxes alone
    images: list[DetectedImage] | list[SegmentedImage] = field(default_factory=list)


def choose_checkpoint(folder: Path) -> Path:
    """The best checkpoint of a work directory, or else its newest complete one.

    Raises:
        UserError: there is none.
    """
    best = [path for path in folder.glob('best_*.pth') if not damage(path)]
    if best:
        return max(best, key=lambda path: path.stat().st_mtime)
    newest, notes = newest_complete(folder)
    if newest is None:
        bare = [path for path in folder.glob('*.pth') if not damage(path)]  # saved without the optimizer
        newest = max(bare, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise UserError(f'{folder} holds no checkpoint (*.pth)' + ''.join(f'; {note}' for note in notes))
    return newest


def predict_run(run: Run, images: int, data: str | None = None, device: str = 'auto') -> Predictions:
    """Predicts on the validation data of a run, and shows progress.

    Args:
        run: its work directory holds the weights.
        images: how many images at most, spread evenly over the data.
        data: folder of the data, if it is not where the config says.
        device: see `ralamala_mm.apis.load_model`.

    Raises:
        UserError: weights or data are missing, or do not fit the config.
    """
    checkpoint = choose_checkpoint(checkpoints_of(run))
    config, mode = _evaluation_config(run, data, checkpoint)
    model = load_model(config, checkpoint, device)
    dataset = build_dataset(model.cfg, mode)
    classes = tuple(dataset.metainfo['classes'])
    found = Predictions(checkpoint, classes, palette_of(dataset.metainfo), len(dataset))
    chosen = spread(images, len(dataset))
    found.images = list(_predict(run, config[f'{mode}_dataloader'], dataset, chosen, model))
    if not run.segments and all(one.predicted.rles is not None for one in found.images):
        found.without_masks = [Path(one.path).name for one in found.images if one.truth.rles is None]
        found.has_masks = not found.without_masks
    return found


def checkpoints_of(run: Run) -> Path:
    """The folder of a run's checkpoints: its work directory, wherever that was moved to, or the one that its config names.

    Those in a store are looked for in the work directory too, into which they have to be copied.
    """
    work_dir = run.config.get('work_dir')
    folder = checkpoint_folder(run.config) if work_dir else None
    return run.folder if folder == work_dir or '://' in folder else Path(folder)


def _evaluation_config(run: Run, data: str | None, checkpoint: Path) -> tuple[Config, str]:
    """The run's config, and which of its data loaders is of the validation data."""
    config = copy.deepcopy(run.config)
    mode = next((mode for mode in ('val', 'test') if config.get(f'{mode}_dataloader')), None)
    if mode is None:
        raise UserError(f'the config of {run.folder} has neither val_dataloader nor test_dataloader')
    config.work_dir, config.launcher, config.load_from = str(run.folder), 'none', None
    config.test_dataloader = config.get('test_dataloader') or config.val_dataloader  # which a model is loaded with
    if data:
        use_data(config, data, [mode], weights_classes=recorded_classes(read_checkpoint(str(checkpoint))))
    check_paths(config, (mode,))
    return config, mode


def _predict(run: Run, settings: dict, dataset: Dataset, chosen: list[int],
             model: nn.Module) -> Iterator[DetectedImage | SegmentedImage]:
    with DefaultScope.overwrite_default_scope(run.config.default_scope):
        loader = DependableRunner.build_dataloader(dict(
            settings, dataset=Subset(dataset, chosen), sampler=dict(type='DefaultSampler', shuffle=False)))
        print(f'{run.name}: predicting {len(chosen)} of {len(dataset)} validation images', flush=True)
        progress, position = Progress('predicting', len(chosen)), 0
        for batch in loader:
            with torch.no_grad():
                samples = model.test_step(batch)
            for sample in samples:
                yield _segmented(sample) if run.segments else _detected(sample, dataset.get_data_info(chosen[position]))
                position += 1
                progress.advance(1)
        progress.end()


def _segmented(sample: BaseDataElement) -> SegmentedImage:
    if 'gt_sem_seg' not in sample:
        raise UserError(f'image {sample.img_path} comes without its annotation: the pipeline of the validation data has no '
                        'LoadAnnotations')
    return SegmentedImage(sample.img_path, *(_as_png(part.data[0]) for part in (sample.gt_sem_seg, sample.pred_sem_seg)))


def _as_png(labels: torch.Tensor) -> bytes:
    return cv2.imencode('.png', labels.cpu().numpy().astype(np.uint8))[1].tobytes()


def _detected(sample: BaseDataElement, annotated: dict) -> DetectedImage:
    height, width = sample.ori_shape
    found = sample.pred_instances.cpu()
    rles = [encode(np.asarray(mask)) for mask in found.masks] if 'masks' in found else None
    predicted = Objects(found.bboxes.numpy(), found.labels.numpy(), found.scores.numpy(), rles=rles)
    instances = annotated.get('instances') or []
    rles = [compressed(one['mask'], height, width) for one in instances] if all('mask' in one for one in instances) else None
    truth = Objects([one['bbox'] for one in instances], [one['bbox_label'] for one in instances],
                    crowd=[bool(one.get('ignore_flag')) for one in instances], rles=rles)
    return DetectedImage(sample.img_path, height, width, truth, predicted)

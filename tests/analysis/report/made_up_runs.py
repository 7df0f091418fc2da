"""Work directories and predictions that no training was needed for."""

import json
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from ralamala_mm.analysis.detections import DetectedImage, Objects
from ralamala_mm.analysis.report.predicting import Predictions, SegmentedImage

CLASSES = ('circle', 'square', 'a class with a long name <b>&')
PALETTE = [(220, 60, 60), (60, 120, 220), (60, 190, 90)]


def write_session(folder: Path, name: str, start: int, stop: int, metric: str, scale: float = 1.0) -> None:
    """What MMEngine leaves of one start of a training: iterations `start + 1` to `stop`, a validation at the end."""
    lines = [dict(lr=1e-3, loss=10 / at * scale, loss_cls=5 / at, time=0.5, iter=at, step=at)
             for at in range(start + 1, stop + 1)]
    lines.append({metric: 0.3 * scale, f'{metric}_s': -1.0, 'step': 1})
    (folder / name / 'vis_data').mkdir(parents=True)
    (folder / name / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n{"lr": 0.00')
    resumed = f'2026/01/01 10:00:01 - mmengine - INFO - resumed epoch: 0, iter: {start}\n' if start else ''
    (folder / name / f'{name}.log').write_text(
        '2026/01/01 10:00:00 - mmengine - INFO - \n------------------------------------------------------------\n'
        'System environment:\n    sys.platform: linux\n    PyTorch: 2.13.0\n    GPU 0: Tested GPU\n\n'
        'Runtime environment:\n    seed: 3\n'
        f'------------------------------------------------------------\n{resumed}2026/01/01 10:01:30 - mmengine - INFO - end\n')


def write_work_dir(folder: Path, scope: str, metric: str, lr: float = 1e-3, scale: float = 1.0) -> Path:
    """A work directory of a training that was resumed after 10 of 20 iterations."""
    folder.mkdir()
    backbone = dict(type='RAVLT', arch='t')
    Config(dict(default_scope=scope, model=dict(type='Detector', backbone=backbone), train_dataloader=dict(batch_size=2),
                optim_wrapper=dict(optimizer=dict(lr=lr)))).dump(folder / 'made_up.py')
    write_session(folder, '20260101_100000', 0, 14, metric, scale)
    write_session(folder, '20260101_110000', 10, 20, metric, scale)
    return folder


def random_detections(folder: Path, seed: int) -> Predictions:
    """Predictions near the objects of eight images; the images and objects are the same for every seed."""
    objects, noise = np.random.default_rng(0), np.random.default_rng(seed)
    found = Predictions(Path('epoch_1.pth'), CLASSES, PALETTE, 8)
    for i in range(8):
        path = folder / f'{i}.png'
        cv2.imwrite(str(path), objects.integers(0, 255, (60, 80, 3), np.uint8))
        corners = objects.uniform(0, 40, (4, 2))
        truth = np.concatenate([corners, corners + objects.uniform(8, 20, (4, 2))], axis=1)
        labels = objects.integers(0, 3, 4)
        guessed = np.where(noise.random(4) < 0.7, labels, 0)
        found.images.append(DetectedImage(str(path), 60, 80, Objects(truth, labels), Objects(
            truth + noise.normal(0, 1, truth.shape), guessed, noise.random(4))))
    return found


def random_segmentations(folder: Path) -> Predictions:
    rng = np.random.default_rng(0)
    found = Predictions(Path('iter_9.pth'), CLASSES, PALETTE, 6)
    for i in range(6):
        path = folder / f'segmented_{i}.png'
        cv2.imwrite(str(path), rng.integers(0, 255, (60, 80, 3), np.uint8))
        truth = np.kron(rng.integers(0, 3, (6, 8)), np.ones((10, 10))).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < 0.8, truth, 1).astype(np.uint8)
        truth[:5] = 255
        pngs = [cv2.imencode('.png', labels)[1].tobytes() for labels in (truth, predicted)]
        found.images.append(SegmentedImage(str(path), *pngs))
    return found

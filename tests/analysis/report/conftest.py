"""Pages made of logs and predictions that no training was needed for."""

from pathlib import Path

import pytest
from made_up_runs import random_detections, random_segmentations, write_work_dir

from ralamala_mm.analysis.report.detection import evaluate_detections
from ralamala_mm.analysis.report.page import write_page
from ralamala_mm.analysis.report.runs import name_apart, read_run
from ralamala_mm.analysis.report.segmentation import evaluate_segmentations


@pytest.fixture(scope='session')
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of a detector, a segmentor, and two detectors beside each other."""
    folder = tmp_path_factory.mktemp('pages')
    detectors = [read_run(write_work_dir(folder / name, 'mmdet', 'coco/bbox_mAP', lr, scale))
                 for name, lr, scale in (('first', 1e-3, 1.0), ('second', 2e-3, 0.9))]
    segmentor = read_run(write_work_dir(folder / 'segmentor', 'mmseg', 'mIoU'))
    name_apart(detectors)
    measured = [evaluate_detections(random_detections(folder, seed)) for seed in (1, 2)]
    made = {name: folder / f'{name}.html' for name in ('detector', 'segmentor', 'comparison')}
    write_page(made['detector'], detectors[:1], measured[:1], [])
    write_page(made['segmentor'], [segmentor], [evaluate_segmentations(random_segmentations(folder))], [])
    write_page(made['comparison'], detectors, measured, [])
    return made

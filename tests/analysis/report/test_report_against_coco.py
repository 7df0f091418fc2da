"""The report's way from a data set and a model's predictions to AP, against MMDetection's own metric on the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from ralamala_mm.analysis.detections import compressed
from ralamala_mm.analysis.report.detection import evaluate_detections
from ralamala_mm.analysis.report.predicting import Predictions, _detected
from ralamala_mm.analysis.samples import build_dataset
from ralamala_mm.datasets import set_data_root, use_checked_loading
from ralamala_mm.engine import load_config

CONFIG = Path(__file__).resolve().parents[3] / 'configs' / 'demo' / 'maskrcnn_ravlt_t_shapes.py'


def run_lengths(polygons: list, side: int) -> dict:
    """Polygons as COCO writes crowds: run lengths that are not compressed, of nothing first."""
    flat = coco_mask.decode(compressed(polygons, side, side)).ravel(order='F')
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return dict(size=[side, side], counts=[0] * int(flat[0]) + np.diff(ends).tolist())


def test_average_precision_is_that_of_the_metric(shapes_root: Path, tmp_path: Path):
    from mmdet.evaluation import CocoMetric
    from mmdet.structures import DetDataSample

    content = json.loads((shapes_root / 'annotations' / 'instances_val.json').read_text())
    for annotation in content['annotations'][::7]:
        annotation.update(iscrowd=1, segmentation=run_lengths(annotation['segmentation'], 128))
    annotations = tmp_path / 'val.json'
    annotations.write_text(json.dumps(content))
    config = load_config(str(CONFIG))
    set_data_root(config, str(shapes_root))
    config.val_dataloader.dataset.ann_file = str(annotations)
    use_checked_loading(config)
    dataset = build_dataset(config, 'val')
    metric = CocoMetric(ann_file=str(annotations), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    generator = np.random.default_rng(0)
    found = Predictions(Path('epoch_1.pth'), dataset.metainfo['classes'], [], len(dataset), has_masks=True)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shape, instances = (info['height'], info['width']), info['instances']
        boxes = np.array([one['bbox'] for one in instances]) + generator.normal(0, 1.5, (len(instances), 4))
        labels = [one['bbox_label'] if generator.random() < 0.9 else 0 for one in instances]
        masks = [np.roll(coco_mask.decode(compressed(one['mask'], *shape)), generator.integers(-2, 3, 2), (0, 1)) > 0
                 for one in instances]
        sample = DetDataSample(metainfo=dict(img_id=info['img_id'], img_path=info['img_path'], ori_shape=shape),
                               pred_instances=InstanceData(
                                   bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor(labels),
                                   scores=torch.tensor(generator.random(len(instances)), dtype=torch.float32),
                                   masks=torch.tensor(np.array(masks))))
        metric.process({}, [sample.to_dict()])
        found.images.append(_detected(sample, info))
    expected = metric.evaluate(len(dataset))
    boxes, rles = evaluate_detections(found).precisions
    assert 0.3 < boxes.summary['AP'] < 0.95
    for precision, kind in ((boxes, 'bbox'), (rles, 'segm')):
        for name, key in (('AP', ''), ('AP50', '_50'), ('AP75', '_75'), ('AP small', '_s'), ('AP medium', '_m')):
            assert precision.summary[name] == pytest.approx(expected[f'coco/{kind}_mAP{key}'], abs=5.1e-4), (kind, name)

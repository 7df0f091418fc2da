"""MMDetection's and MMSegmentation's own inferencers take our configs by their path, and see what `predict` sees."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from ralamala_mm.apis import load_model, predict

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'demo'


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / 'photo.png'
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (128, 96)))
    return path


def random_model(config: Path, folder: Path) -> tuple[nn.Module, Path]:
    """A model of random weights and its checkpoint, with what MMEngine records, history buffers too."""
    from mmengine.logging import HistoryBuffer

    torch.manual_seed(0)
    model = load_model(config, device='cpu')
    meta = dict(epoch=1, iter=1, cfg=Config.fromfile(config).pretty_text, dataset_meta=model.dataset_meta)
    path = folder / 'epoch_1.pth'
    torch.save(dict(meta=meta, state_dict=model.state_dict(), message_hub=dict(loss=HistoryBuffer([1.0], [1]))), path)
    return model, path


def test_mmdetections_inferencer(photo: Path, tmp_path: Path):
    from mmdet.apis import DetInferencer

    config = CONFIGS / 'maskrcnn_ravlt_t_shapes.py'
    model, file = random_model(config, tmp_path)
    inferencer = DetInferencer(model=str(config), weights=str(file), device='cpu', show_progress=False)
    result = inferencer(str(photo))
    theirs = result['predictions'][0]
    ours = predict(model, photo).pred_instances
    assert len(theirs['scores']) > 5
    assert theirs['scores'] == pytest.approx(ours.scores.tolist(), abs=1e-5)
    np.testing.assert_allclose(np.array(theirs['bboxes']), ours.bboxes.numpy(), atol=1e-3)


def test_mmsegmentations_inferencer(photo: Path, tmp_path: Path):
    from mmseg.apis import MMSegInferencer

    config = CONFIGS / 'semanticfpn_ravlt_t_shapes.py'
    model, file = random_model(config, tmp_path)
    inferencer = MMSegInferencer(model=str(config), weights=str(file), device='cpu')
    theirs = inferencer(str(photo))['predictions']
    ours = predict(model, photo).pred_sem_seg.data[0].numpy()
    assert len(np.unique(ours)) > 1
    assert (np.asarray(theirs) == ours).all()

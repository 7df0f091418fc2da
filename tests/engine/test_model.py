"""A config's model without a runner is the runner's."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from toy_training import toy_config

from ralamala_mm.engine import DependableRunner, build_model

BESIDE, WITHIN = (dict(type='ImgDataPreprocessor', mean=[value] * 3, std=[2.0] * 3) for value in (1.0, 5.0))


@MODELS.register_module(force=True)
class NormalizingModel(BaseModel):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


@pytest.mark.parametrize(('model', 'mean'), [({}, 1.0), (dict(data_preprocessor=WITHIN), 5.0)], ids=['beside', 'within'])
def test_a_preprocessor_beside_the_model(model: dict, mean: float, tmp_path: Path):
    """The model's own comes first."""
    config = toy_config(tmp_path, data_preprocessor=BESIDE, custom_hooks=[])
    config.model = dict(type='NormalizingModel', **model)
    before = copy.deepcopy(config.to_dict())
    built = build_model(config).data_preprocessor
    assert config.to_dict() == before
    runners = DependableRunner.from_cfg(config).model.data_preprocessor
    assert built.mean.flatten().tolist() == runners.mean.flatten().tolist() == [mean] * 3

"""Files that a config names are looked for before anything is built."""

from pathlib import Path

import pytest
from mmengine.config import Config

from ralamala_mm.datasets import check_paths, set_data_root
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    loaded = load_config('configs/demo/maskrcnn_ravlt_t_shapes.py')
    set_data_root(loaded, str(shapes_root))
    return loaded


def test_everything_is_there(config: Config):
    check_paths(config, ['train', 'val', 'test'])


def test_the_metric_s_annotations(config: Config):
    config.val_evaluator.ann_file = 'nowhere.json'
    with pytest.raises(UserError, match=r'nowhere.json of the metric does not exist: val_evaluator.ann_file names it'):
        check_paths(config, ['val'])


def test_an_annotation_file(config: Config):
    config.train_dataloader.dataset.ann_file = 'nowhere.json'
    with pytest.raises(UserError, match=r'nowhere.json does not exist: train_dataloader.dataset.ann_file names it'):
        check_paths(config, ['train'])

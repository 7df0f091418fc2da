"""The order in which command lines change a config."""

import argparse
from pathlib import Path

import pytest

from ralamala_mm.datasets.config import CHECKED, datasets_of, transforms_of
from ralamala_mm.engine import prepare_evaluation

ROOT = Path(__file__).resolve().parents[2]
READERS = ('LoadImageFromFile', 'LoadAnnotations')


def evaluation(config: Path, data: Path, work_dir: Path, **options: object) -> argparse.Namespace:
    plain = dict(checkpoint='none.pth', data=None, iscrowd=None, out=None, show=False,
                 show_dir=None, wait_time=0, tta=False, launcher='none')
    return argparse.Namespace(config=str(config), work_dir=str(work_dir), cfg_options={
        'test_dataloader.dataset.data_root': str(data)}, **dict(plain, **options))


@pytest.mark.parametrize('tta', [False, True])
def test_every_reader_checks_what_it_reads(tta: bool, shapes_root: Path, tmp_path: Path):
    config = prepare_evaluation(evaluation(ROOT / 'tests/faults/configs/tiny_segmentor.py', shapes_root, tmp_path, tta=tta))
    (dataset,) = [dataset for _, dataset in datasets_of(config, ['test'])]
    types = [transform.type for transform in transforms_of(dataset)]
    assert ('TestTimeAug' in types) == tta
    assert not [kind for kind in types if kind.split('.')[-1] in READERS]
    assert sum(kind in CHECKED for kind in types) == 2


def test_a_config_that_names_the_visualizer_as_test_py_once_did(shapes_root: Path, tmp_path: Path):
    (tmp_path / 'dumped.py').write_text(f'''_base_ = {str(ROOT / 'tests/faults/configs/tiny_segmentor.py')!r}
visualizer = dict(type='SampleVisualizer', _delete_=True)
''')
    config = prepare_evaluation(evaluation(tmp_path / 'dumped.py', shapes_root, tmp_path))
    assert config.visualizer.type == 'ralamala_mm.apis.drawing.SampleVisualizer'

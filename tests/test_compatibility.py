"""What is given back to MMEngine on newer Pythons, and to configs that name modules as they once were."""

import pkgutil
import sys
import warnings
from importlib import import_module
from types import ModuleType

import pytest
from mmengine.utils.misc import get_object_from_string

from ralamala_mm.compatibility import MOVED, restore_find_loader

NAMES = ('json', 'mmengine', 'xml.dom', 'no_such_module', 'no_such_package.module')


@pytest.fixture
def bare() -> ModuleType:
    """A `pkgutil` as in Python 3.14."""
    module = ModuleType('pkgutil')
    restore_find_loader(module)
    return module


def test_it_answers_as_the_old_one_did(bare: ModuleType):
    found = [bare.find_loader(name) is not None for name in NAMES]
    assert found == [True, True, True, False, False]


@pytest.mark.skipif(not hasattr(pkgutil, 'find_loader') or pkgutil.find_loader.__module__ != 'pkgutil',
                    reason='this Python has no find_loader of its own')
def test_where_there_is_one_it_stays(bare: ModuleType):
    own = pkgutil.find_loader
    restore_find_loader()
    assert pkgutil.find_loader is own
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        assert [own(name) is not None for name in NAMES[:-1]] == [bare.find_loader(name) is not None for name in NAMES[:-1]]


def test_mmengine_can_ask_for_mmcvs_operators():
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_full_available()


@pytest.mark.parametrize('name', [
    'engine.bfloat16.BFloat16OptimWrapper', 'engine.coco_metric.FasterCocoMetric', 'engine.non_finite.NonFiniteHook',
    'engine.progress.ProgressHook', 'engine.records.DependableLocalVisBackend', 'engine.runner.DependableRunner',
    'engine.saving.DependableCheckpointHook', 'engine.stopping.StopHook', 'datasets.LoadCheckedImage',
    'datasets.loading.LoadCheckedImage', 'datasets.mask_loading.LoadCheckedMask',
    'datasets.instance_loading.LoadCheckedInstances'])
def test_names_in_dumped_configs(name: str):
    found = get_object_from_string(f'ralamala_mm.{name}')
    assert found is not None
    assert found.__name__ == name.rpartition('.')[2]


def test_moved_modules_are_the_new_ones():
    assert MOVED
    for old, new in MOVED.items():
        assert import_module(old) is import_module(new)
        assert sys.modules[new].__spec__.name == new
    with pytest.raises(ModuleNotFoundError):
        import_module('ralamala_mm.engine.no_such_module')

"""What is given back to MMEngine on newer Pythons."""

import pkgutil
import warnings
from types import ModuleType

import pytest

from ralamala_mm.compatibility import restore_find_loader

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

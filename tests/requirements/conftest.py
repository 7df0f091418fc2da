import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements'
MODULES = ('install', 'machine', 'matrix', 'pip_errors', 'mmcv_source', 'mmcv_wheel', 'cuda_toolkit', 'check_stack')


@pytest.fixture(scope='package')
def requirements() -> dict[str, ModuleType]:
    """The installer's modules, which import each other from their own folder."""
    sys.path.insert(0, str(REQUIREMENTS))
    try:
        return {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(REQUIREMENTS))


@pytest.fixture(scope='package')
def install(requirements: dict[str, ModuleType]) -> ModuleType:
    return requirements['install']


@pytest.fixture
def no_gpu(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer that finds no GPU and is not asked for one's operators."""
    monkeypatch.setattr(install, 'find_gpus', lambda: None)
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)

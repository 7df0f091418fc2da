"""What others rely on and no longer find: functions of older Pythons, and modules of this package under earlier names."""

import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Modules with registered classes, which dumped configs may name in full.
MOVED = {
    'ralamala_mm.apis.visualizer': 'ralamala_mm.apis.drawing',
    'ralamala_mm.datasets.loading': 'ralamala_mm.datasets.images',
    'ralamala_mm.engine.loops': 'ralamala_mm.engine.reproducibility',
    'ralamala_mm.engine.records': 'ralamala_mm.engine.work_dir',
    'ralamala_mm.engine.resuming': 'ralamala_mm.engine.checkpointing',
    'ralamala_mm.engine.sampling': 'ralamala_mm.engine.reproducibility',
    'ralamala_mm.engine.saving': 'ralamala_mm.engine.checkpointing',
    'ralamala_mm.engine.stopping': 'ralamala_mm.engine.interruption',
    'ralamala_mm.variants': 'ralamala_mm.families',
}


def restore_find_loader(module: ModuleType = pkgutil) -> None:
    """Adds `pkgutil.find_loader`, which Python 3.14 removed (python/cpython issue 120581).

    MMEngine 0.10.7 (`utils/dl_utils/misc.py`) calls it wherever an optimizer has a `paramwise_cfg`, MMCV 2.1.0
    (`utils/ext_loader.py`) to look for its operators; both only ask whether there is a loader. OneDL's releases do not.
    """
    if not hasattr(module, 'find_loader'):
        module.find_loader = _find_loader


def _find_loader(name: str) -> object | None:
    """The loader of a module, None if it cannot be found."""
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent package is missing
        return None
    return spec.loader if spec else None


class _MovedModules(MetaPathFinder, Loader):
    """Imports a module of `MOVED` as the one that it became."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty one, as Python makes by default."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def find_moved_modules() -> None:
    """Lets modules be imported by the names that they had."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())

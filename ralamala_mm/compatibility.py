"""Gives upstream's MMEngine and MMCV back what newer Pythons took away, each only where it is missing."""

import importlib.util
import pkgutil
from importlib.machinery import ModuleSpec
from types import ModuleType


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

"""A tool of the repository as a module, for tests of its functions."""

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / 'tools'


def load_tool(path: str) -> ModuleType:
    """The module of `tools/PATH.py`; importing it runs no command."""
    file = TOOLS / f'{path}.py'
    spec = util.spec_from_file_location(f'tool_{file.stem}', file)
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look themselves up
    spec.loader.exec_module(module)
    return module

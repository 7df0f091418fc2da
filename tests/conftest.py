"""What several tests need: the released models' keys, the built-in data, and command lines as a user calls them."""

import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Call, run_all

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before the kernels are defined

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of several processes is left with them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker('slow'))
    items.sort(key=lambda item: -slow[item.path])  # stable: the tests of a file stay together and in order


@pytest.fixture(scope='session')
def published() -> dict:
    """Keys, shapes and parameter counts of the released models."""
    return json.loads((DATA / 'state_dict.json').read_text())


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the built-in data."""
    from ralamala_mm.datasets.shapes import make_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, train=12, val=4)
    return root


@pytest.fixture(scope='session')
def call(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in the repository's root with this environment's Python; both streams are kept.

    Tools are forked from a process that has imported the stack, unless environment variables are given, which libraries may
    read while they are imported.
    """

    def run(*command: object, cwd: Path = ROOT, timeout: int = 600, **variables: str) -> subprocess.CompletedProcess:
        words = [sys.executable if word == 'python' else str(word) for word in command]
        is_tool = command[0] == 'python' and words[1].endswith('.py') and Path(cwd, words[1]).is_relative_to(ROOT / 'tools')
        if is_tool and not variables:
            (outcome,) = run_all([Call(words[1:], str(tmp_path_factory.mktemp('streams')), cwd=str(cwd))], timeout)
            if outcome.code is None:
                raise subprocess.TimeoutExpired(words, timeout, outcome.stdout, outcome.stderr)
            return subprocess.CompletedProcess(words, outcome.code, outcome.stdout, outcome.stderr)
        environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'), **variables)
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture(autouse=True)
def recompute_all(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps in the tests of operators and backbones are small: without this, none would be recomputed in the backward pass."""
    if request.path.parent.name in ('ops', 'backbones'):
        monkeypatch.setattr(importlib.import_module('ralamala_mm.ops.numerics'), 'SMALL', 0)

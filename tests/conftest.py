"""What several tests need: the reference weights by rule, the built-in data, and command lines as a user calls them."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'


def uniform_stream(key: str, count: int) -> np.ndarray:
    """`count` doubles in [0, 1) from a splitmix64 stream that the key starts."""
    with np.errstate(over='ignore'):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(zlib.crc32(key.encode())) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0 ** -53


def reference_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one state-dict entry in the reference models."""
    u = torch.from_numpy(uniform_stream(key, int(np.prod(shape))).reshape(shape))
    kind = key.split('.')[-1]
    if kind in ('gamma_1', 'gamma_2', 'running_var') or (kind == 'weight' and len(shape) == 1):
        return (0.5 + u).float()
    if kind in ('bias', 'running_mean'):
        return (0.1 * (2 * u - 1)).float()
    return ((2 * u - 1) * (3 / np.prod(shape[1:])) ** 0.5).float()


def reference_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights for every entry but those that the rule leaves out."""
    return {key: reference_weight(key, tuple(shape)) for key, shape in shapes.items()
            if not key.endswith(('num_batches_tracked', 'RoPE.angle'))}


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
def call() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command in the repository's root with this environment's Python; both streams are kept."""

    def run(*command: object, cwd: Path = ROOT, timeout: int = 600, **variables: str) -> subprocess.CompletedProcess:
        words = [sys.executable if word == 'python' else str(word) for word in command]
        environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'), **variables)
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False)

    return run

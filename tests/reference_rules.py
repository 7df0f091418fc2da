"""The weights and inputs of the reference tensors, by the rule that they were made with."""

import zlib

import numpy as np
import torch
from torch import Tensor


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

"""A config's data set without its loader's workers, and which of its images are inspected."""

import contextlib
import io
from importlib import import_module

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.utils.data import Dataset

from ralamala_mm.engine import DependableRunner
from ralamala_mm.errors import UserError


def build_dataset(config: Config, part: str) -> Dataset:
    """The data set that a config's data loader reads.

    Args:
        config: with data that is there.
        part: 'train', 'val' or 'test'.

    Raises:
        UserError: the config has no such part, or its files cannot be used or give no image.
    """
    loader = config.get(f'{part}_dataloader')
    if not loader:
        raise UserError(f'the config has no {part}_dataloader: choose another split with --part')
    import_module(f'{config.default_scope}.datasets')
    quiet = contextlib.redirect_stdout(io.StringIO())  # pycocotools prints what it does
    with DefaultScope.overwrite_default_scope(config.default_scope), quiet:
        return DependableRunner.build_dataloader(dict(loader, num_workers=0, persistent_workers=False)).dataset


def spread(number: int, available: int) -> list[int]:
    """Up to `number` indices below `available`, as far apart as can be."""
    return np.unique(np.linspace(0, available - 1, min(number, available)).round().astype(int)).tolist()

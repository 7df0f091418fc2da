"""Whether files may run code while they are read: no, unless the command line says `--trust-checkpoint`."""

import sys
from pathlib import Path

import torch

_is_trusting = False


def trust_checkpoints(trust: bool) -> None:
    """What the command line says, for every way of reading a checkpoint in this process: those that the config names too.

    Nothing else sets it, and no config can. A file that nobody named, as in a folder that is looked through, is not trusted.
    """
    global _is_trusting
    _is_trusting = trust


def is_trusting() -> bool:
    """Whether `--trust-checkpoint` was given."""
    return _is_trusting


def load_trusting(path: Path, reason: str) -> object:
    """Reads a checkpoint as Python's pickle does, running what it asks for, and says so on stderr.

    Args:
        path: the file.
        reason: what it holds beside data.
    """
    print(f'WARNING: --trust-checkpoint: reading {path} WITH CODE ALLOWED, as it holds more than data ({reason})',
          file=sys.stderr, flush=True)
    return torch.load(path, map_location='cpu', weights_only=False)

"""A backbone as a program that PyTorch alone runs: torch.export's .pt2 files and TorchScript."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ralamala_mm.errors import UserError

SMALLEST = 33  # pixels: torch.export takes a map of one row or column for a size that never changes


def write_exported_program(backbone: nn.Module, example: Tensor, path: Path) -> None:
    """Captures a backbone with torch.export, with open batch, height and width, and saves it.

    Args:
        backbone: a `RAVLT` or `MALA`.
        example: `[B, 3, H, W]` with at least 2 images.
        path: the file to write.

    Raises:
        UserError: this PyTorch is too old.
    """
    if not hasattr(torch.export, 'Dim'):
        raise UserError(f'torch.export with open sizes needs PyTorch 2.2 or later, and this is {torch.__version__}')
    open_sizes = {0: torch.export.Dim('batch', min=1), **{i: torch.export.Dim(name, min=SMALLEST, max=2 ** 14)
                                                          for i, name in ((2, 'height'), (3, 'width'))}}
    with torch.no_grad():
        program = torch.export.export(backbone.eval(), (example,), dynamic_shapes=(open_sizes,), strict=False)
    torch.export.save(program, path)


def write_torchscript(backbone: nn.Module, example: Tensor, path: Path) -> None:
    """Traces a backbone and saves it; batch, height and width stay open.

    Args:
        backbone: a `RAVLT` or `MALA`.
        example: `[B, 3, H, W]`.
        path: the file to write.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of tracing, and that TorchScript will have no successor but torch.export
        torch.jit.save(torch.jit.trace(backbone.eval(), example, check_trace=False), str(path))

"""The formats that a model can be exported to: how a file of each is written, and run again. One entry is one format."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ralamala_mm.errors import UserError

from .onnx import need_onnx, onnx_session, write_onnx

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


def load_exported_program(path: Path) -> nn.Module:
    """A backbone from a file of `write_exported_program`."""
    return torch.export.load(path).module()


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        suffix: of its files' names.
        write: writes a module: `write(module, example, path, outputs, batched, notes)`, see `write_onnx`.
        load: makes of a file a function from images to the outputs.
        takes_models: whether it takes detectors and segmentors with their post-processing, or backbones alone.
        need: raises `UserError` where a package is missing.
    """

    suffix: str
    write: Callable[[nn.Module, Tensor, Path, Sequence[str], bool, dict[str, str] | None], None]
    load: Callable[[Path], Callable[[Tensor], Sequence[Tensor]]]
    takes_models: bool = False
    need: Callable[[], None] = lambda: None


def _without_names(write: Callable[[nn.Module, Tensor, Path], None]) -> Callable[..., None]:
    """`Format.write` of a format that has neither names of outputs nor notes, and whose number of images is always open."""
    return lambda module, example, path, *_: write(module, example, path)


FORMATS = {
    'onnx': Format('.onnx', write_onnx, onnx_session, takes_models=True, need=need_onnx),
    'torch-export': Format('.pt2', _without_names(write_exported_program), load_exported_program),
    'torchscript': Format('.pt', _without_names(write_torchscript), torch.jit.load),
}

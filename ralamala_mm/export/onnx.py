"""A module into an ONNX file, and an ONNX file's results from onnxruntime."""

import inspect
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ralamala_mm.backbones.hybrid import use_backend
from ralamala_mm.errors import UserError

OPSET = 17  # the highest that PyTorch's tracing exporter writes in all releases from 2.1 on


def need_onnx() -> None:
    """Raises:
        UserError: a package that ONNX needs is missing.
    """
    if missing := [name for name in ('onnx', 'onnxruntime') if find_spec(name) is None]:
        raise UserError(f'ONNX needs the package {" and ".join(missing)}: pip install -r requirements/optional.txt')


def write_onnx(module: nn.Module, example: Tensor, path: Path, outputs: Sequence[str], batched: bool,
               notes: dict[str, str] | None = None) -> None:
    """Traces `module` and writes it with open height and width.

    By tracing (`dynamo=False`): a twentieth of the time that torch.export takes for open sizes, on every PyTorch from 2.1 on, and
    with numbers of boxes that are known only when the graph runs. On the naive backend: its operators are ONNX's own.

    Args:
        module: takes `image`, `[B, 3, H, W]`, and returns a tuple of tensors.
        example: an image to trace with; any other size may follow.
        path: the file to write.
        outputs: names of what is returned.
        batched: whether the number of images is open too.
        notes: texts that the file carries as metadata.

    Raises:
        UserError: a package is missing.
    """
    need_onnx()
    import onnx

    # Newer releases have another exporter, and take that one unless told.
    chosen = dict(dynamo=False) if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    axes = {0: 'batch'} if batched else {}
    torch.onnx.register_custom_op_symbolic('aten::mT', _transpose_matrices, OPSET)
    with warnings.catch_warnings(), torch.no_grad(), use_backend(module, 'naive'):
        warnings.simplefilter('ignore')  # of tracing: sizes that stay what they are, in every model the same lines
        torch.onnx.export(module.eval(), (example,), str(path), opset_version=OPSET, input_names=['image'],
                          output_names=list(outputs), dynamic_axes={'image': axes | {2: 'height', 3: 'width'}}, **chosen)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, notes or {})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def run_onnx(path: Path, image: Tensor, threads: int | None = None) -> tuple[Tensor, ...]:
    """What onnxruntime makes of an image on the CPU."""
    return onnx_session(path, threads)(image)


def onnx_session(path: Path, threads: int | None = None):
    """A function from an image to the file's outputs, as tensors; onnxruntime with as many threads as PyTorch."""
    need_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda image: tuple(torch.from_numpy(output) for output in session.run(None, {'image': image.numpy()}))


def _transpose_matrices(g, x):
    """`Tensor.mT`, which the exporter lacks."""
    rank, sizes = x.type().dim(), x.type().varyingSizes()
    transposed = g.op('Transpose', x, perm_i=[*range(rank - 2), rank - 1, rank - 2])
    transposed.setType(x.type().with_sizes([*sizes[:-2], sizes[-1], sizes[-2]]))
    return transposed

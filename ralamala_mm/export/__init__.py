"""Models into files that run without this project: ONNX, torch.export, TorchScript; each checked against PyTorch."""

from .formats import FORMATS, Format, write_exported_program, write_torchscript
from .images import ImageModel, image_model
from .onnx import run_onnx, write_onnx

__all__ = ['FORMATS', 'Format', 'ImageModel', 'image_model', 'run_onnx', 'write_exported_program', 'write_onnx',
           'write_torchscript']

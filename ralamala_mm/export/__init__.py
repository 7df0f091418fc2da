"""Models into files that run without this project: ONNX, torch.export, TorchScript; each checked against PyTorch."""

from .images import ImageModel, image_model
from .onnx_file import run_onnx, write_onnx
from .programs import write_exported_program, write_torchscript

__all__ = ['ImageModel', 'image_model', 'run_onnx', 'write_exported_program', 'write_onnx', 'write_torchscript']

"""Inference only: norms, scales and identities that are linear go into the convolutions beside them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ralamala_mm.ops import RotaryTable

from .layers import LAYER_NORM_EPSILON, Block, Downsample, Stem


def fuse_norm(convolution: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """Takes a batch norm's stored statistics into the convolution before it; what is left of the norm."""
    if not isinstance(norm, _BatchNorm):
        return norm
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    return nn.Identity()


def fuse_stem(stem: Stem) -> None:
    for i in range(1, len(stem.proj), 3):
        stem.proj[i] = fuse_norm(stem.proj[i - 1], stem.proj[i])


def fuse_downsample(downsample: Downsample) -> None:
    downsample.norm = fuse_norm(downsample.reduction, downsample.norm)


def _with_input_scale(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The 1×1 convolution of weight · x + bias."""
    matrix = convolution.weight.flatten(1)
    convolution.bias = nn.Parameter(convolution.bias + matrix @ bias)
    convolution.weight = nn.Parameter((matrix * weight)[:, :, None, None])
    return convolution


def _with_output_scale(convolution: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """scale · convolution(x)."""
    convolution.weight = nn.Parameter(convolution.weight * scale.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(convolution.bias * scale.flatten())
    return convolution


def _with_identity(convolution: nn.Conv2d) -> nn.Conv2d:
    """x + convolution(x), of a depthwise convolution."""
    height, width = (size // 2 for size in convolution.kernel_size)
    weight = convolution.weight.clone()
    weight[:, :, height, width] += 1
    convolution.weight = nn.Parameter(weight)
    return convolution


class FusedBlock(nn.Module):
    """A `Block` for inference: LayerNorms without weights, no layer scale, no addition beside a depthwise convolution."""

    @torch.no_grad()
    def __init__(self, block: Block):
        super().__init__()
        self.attn = block.attn
        self.ffn = block.ffn
        self.pos = _with_identity(block.pos)
        _with_input_scale(self.attn.qkvo, block.norm1.norm.weight, block.norm1.norm.bias)
        _with_input_scale(self.ffn.fc1, block.norm2.norm.weight, block.norm2.norm.bias)
        _with_output_scale(self.attn.proj, block.gamma_1)
        _with_output_scale(self.ffn.fc2, block.gamma_2)
        _with_identity(self.ffn.dwconv)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        # Under autocast the sum of the residual branches stays in fp32, as in `Block`.
        x = self.pos(x).to(torch.promote_types(x.dtype, self.pos.weight.dtype))
        x = x + self.attn(_normalise(x), rotary)
        return x + self.ffn.fc2(self.ffn.dwconv(F.gelu(self.ffn.fc1(_normalise(x)))))


def _normalise(x: Tensor) -> Tensor:
    """LayerNorm over channels, without weights."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=LAYER_NORM_EPSILON).permute(0, 3, 1, 2)

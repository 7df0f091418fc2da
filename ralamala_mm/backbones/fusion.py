"""Inference only: batch norms and the weights of LayerNorms go into the convolutions beside them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ralamala_mm.ops import RotaryTable

from .layers import LAYER_NORM_EPSILON, Block, Downsample, Stem, add_convolved, scaled_projection


def fuse_norm(convolution: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """Takes a batch norm's stored statistics into the convolution before it; what is left of the norm."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
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


class FusedBlock(nn.Module):
    """A `Block` for inference, whose LayerNorms have no weights.

    Layer scale and identities stay apart in half precision, where they would be rounded away within the weights.
    """

    @torch.no_grad()
    def __init__(self, block: Block):
        super().__init__()
        self.gamma_1, self.gamma_2 = block.gamma_1, block.gamma_2
        self.pos, self.attn, self.ffn = block.pos, block.attn, block.ffn
        _with_input_scale(self.attn.qkvo, block.norm1.norm.weight, block.norm1.norm.bias)
        _with_input_scale(self.ffn.fc1, block.norm2.norm.weight, block.norm2.norm.bias)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        x = add_convolved(self.pos, x.to(torch.promote_types(x.dtype, self.gamma_1.dtype)))
        mixed = self.attn.mix(*self.attn.attend(self.attn.qkvo(_normalise(x)), rotary))
        x = x + scaled_projection(self.attn.proj, self.gamma_1, mixed)
        hidden = F.gelu(self.ffn.fc1(_normalise(x)))
        hidden = add_convolved(self.ffn.dwconv, hidden)
        return x + scaled_projection(self.ffn.fc2, self.gamma_2, hidden)


def _normalise(x: Tensor) -> Tensor:
    """LayerNorm over channels, without weights."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], eps=LAYER_NORM_EPSILON).permute(0, 3, 1, 2)

"""Inference only: batch norms and the weights of LayerNorms go into the convolutions beside them."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .layers import LAYER_NORM_EPSILON, Block, Downsample, LayerNorm2d, Stem


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


def fuse_block(block: Block) -> None:
    """Leaves the block LayerNorms without weights.

    Layer scale and identities are left to `Block.forward`, which takes them into the weights in fp32 only: in half
    precision they would be rounded away there.
    """
    _fuse_layer_norm(block.norm1, block.attn.qkvo)
    _fuse_layer_norm(block.norm2, block.ffn.fc1)


@torch.no_grad()
def _fuse_layer_norm(norm: LayerNorm2d, convolution: nn.Conv2d) -> None:
    """Takes weight and bias of a LayerNorm into the 1×1 convolution after it."""
    matrix = convolution.weight.flatten(1)
    convolution.bias = nn.Parameter(convolution.bias + matrix @ norm.norm.bias)
    convolution.weight = nn.Parameter((matrix * norm.norm.weight)[:, :, None, None])
    norm.norm = nn.LayerNorm(norm.norm.normalized_shape, eps=LAYER_NORM_EPSILON, elementwise_affine=False)

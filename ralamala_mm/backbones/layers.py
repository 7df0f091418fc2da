"""The parts that RAVLT and MALA share, in the order in which data meets them.

Shapes: B batch, C channels, H W grid, L = H·W tokens, N heads, D = C / N channels per head.
Maps are `[B, C, H, W]`. LayerNorm leaves them channels-last, which attention relies on to split heads without copies;
the other layers keep the memory format that they are given. Attribute names are those of the released state dicts.
"""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ralamala_mm import ops
from ralamala_mm.errors import OptionError
from ralamala_mm.ops import RotaryTable

LAYER_NORM_EPSILON = 1e-6
_BATCH_NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """A normalisation over maps from an OpenMMLab `norm_cfg`; BN and SyncBN need no mmcv, other types come from it.

    Raises:
        OptionError: the type is neither known here nor registered.
    """
    settings = dict(norm_cfg)
    kind, requires_grad = settings.pop('type'), settings.pop('requires_grad', True)
    norm_class = _BATCH_NORMS.get(kind) or MODELS.get(kind)
    if norm_class is None:
        raise OptionError(f"norm_cfg type '{kind}' is not known; use BN or SyncBN, or import mmcv for its own")
    norm = norm_class(num_channels=channels, **settings) if kind == 'GN' else norm_class(channels, **settings)
    return norm.requires_grad_(requires_grad)


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a map; free of copies when the map is channels-last."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability `rate` while training (stochastic depth)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep)

    def extra_repr(self) -> str:
        return f'{self.rate:.3f}'


class Stem(nn.Module):
    """Four 3×3 convolutions, two of them of stride 2: `[B, 3, H, W]` → `[B, C, ⌈H/4⌉, ⌈W/4⌉]`."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict):
        super().__init__()
        half = channels // 2
        layers: list[nn.Module] = []
        for inputs, outputs, stride in [(in_channels, half, 2), (half, half, 1), (half, half, 1), (half, channels, 2)]:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), build_norm(norm_cfg, outputs), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])  # no activation after the last norm

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Downsample(nn.Module):
    """`[B, C, H, W]` → `[B, C', ⌈H/2⌉, ⌈W/2⌉]`."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict):
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class RotaryPosition(nn.Module):
    """Tables for the grid of a stage. `angle` is in the released state dicts, but never differs from the formula."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.register_buffer('angle', ops.rotary_frequencies(head_dim))

    def forward(self, height: int, width: int) -> RotaryTable:
        # Not from the buffer: in a model cast to fp16 it holds 11 bits, too few at the far end of a large grid.
        return ops.rotary_table(height, width, ops.rotary_frequencies(self.head_dim, self.angle.device))


class GatedAttention(nn.Module):
    """Attention over all tokens of a map with a local term and an output gate: proj((attended + lepe(v)) ⊙ o).

    Args:
        channels: C, split into `num_heads` heads.
        attention: the function of `ops` between q, k, v: 'softmax_attention', 'rala' or 'mala'.
    """

    def __init__(self, channels: int, num_heads: int, attention: str):
        super().__init__()
        self.num_heads = num_heads
        self.attention = attention
        self.qkvo = nn.Conv2d(channels, 4 * channels, 1)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        qkvo = self.qkvo(x)
        q, k, v, _ = (qkvo.permute(0, 2, 3, 1).flatten(1, 2)  # [B, L, 4C]
                      .unflatten(-1, (4, self.num_heads, -1)).permute(2, 0, 3, 1, 4))  # 4 × [B, N, L, D]
        attended = ops.ATTENTIONS[self.attention](q, k, v, rotary)  # [B, N, L, D]
        attended = attended.transpose(1, 2).reshape(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)
        value, gate = qkvo.chunk(4, dim=1)[2:]
        return self.proj((attended + self.lepe(value)) * gate)

    def extra_repr(self) -> str:
        return f'{self.attention}, num_heads={self.num_heads}'


class FeedForward(nn.Module):
    """fc1, GELU, a residual depthwise 3×3 convolution, fc2; the linear layers are 1×1 convolutions."""

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)
        self.dwconv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)

    def forward(self, x: Tensor) -> Tensor:
        # Recomputing keeps one map of the hidden width instead of three.
        return ops.recompute(self._activate_and_project, self.fc1(x))

    def _activate_and_project(self, x: Tensor) -> Tensor:
        x = F.gelu(x)
        return self.fc2(x + self.dwconv(x))


class Block(nn.Module):
    """Convolutional position, attention and feed-forward, each residual; the latter two with layer scale."""

    def __init__(self, channels: int, num_heads: int, attention: str, mlp_ratio: float, drop_path: float,
                 layer_scale_init: float):
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((1, channels, 1, 1), layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full((1, channels, 1, 1), layer_scale_init))
        self.norm1 = LayerNorm2d(channels)
        self.attn = GatedAttention(channels, num_heads, attention)
        self.norm2 = LayerNorm2d(channels)
        self.ffn = FeedForward(channels, int(channels * mlp_ratio))
        self.pos = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        x = x + self.pos(x)
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), rotary))
        return x + self.drop_path(self.gamma_2 * self.ffn(self.norm2(x)))

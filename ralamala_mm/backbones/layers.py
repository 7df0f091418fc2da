"""The parts that RAVLT and MALA share, in the order in which data meets them.

Shapes: B batch, C channels, H W grid, L = H·W tokens, N heads, D = C / N channels per head.
Maps are `[B, C, H, W]`. LayerNorm leaves them channels-last, which attention relies on to split heads without copies;
convolutions keep the memory format that they are given. Attribute names are those of the released state dicts.
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
    """A normalization over maps from an OpenMMLab `norm_cfg`; BN and SyncBN need no mmcv, other types come from it.

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
        self.drops = rate > 0
        # A tensor, so that torch.compile shares one graph among blocks of different rates.
        self.register_buffer('keep', torch.tensor(1 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.drops and self.training):
            return x
        return x * (torch.bernoulli(self.keep.expand(x.shape[0], 1, 1, 1)) / self.keep).to(x.dtype)

    def extra_repr(self) -> str:
        return f'{self.rate:.3f}'


class Stem(nn.Module):
    """Four 3×3 convolutions, two of them of stride 2: `[B, 3, H, W]` → `[B, C, ⌈H/4⌉, ⌈W/4⌉]`."""

    backend: str | None = None  # set by the backbone

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict):
        super().__init__()
        half = channels // 2
        layers: list[nn.Module] = []
        for inputs, outputs, stride in [(in_channels, half, 2), (half, half, 1), (half, half, 1), (half, channels, 2)]:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), build_norm(norm_cfg, outputs), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])  # no activation after the last norm

    def forward(self, x: Tensor) -> Tensor:
        if self.backend == 'naive':
            return self.proj(x)
        x = self.proj[:2](x)
        for i in range(2, len(self.proj), 3):  # activation and convolution; norm
            x = self.proj[i + 2](ops.recompute(self.proj[i:i + 2], x))
        return x


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
        self._last: tuple[tuple, RotaryTable] | None = None  # images of a size come one after the other

    def forward(self, height: int, width: int) -> RotaryTable:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # a graph for any size, not the tables of one
            return self._make(height, width)
        key = (height, width, self.angle.device)
        if self._last is None or self._last[0] != key:
            with torch.inference_mode(False):  # or training after inference could not use it
                table = self._make(height, width)
            if type(table.cos) is not Tensor:  # a pretended one, of a tool that counts
                return table
            self._last = key, table
        return self._last[1]

    def _make(self, height: int, width: int) -> RotaryTable:
        # Not from the buffer: in a model cast to fp16 it holds 11 bits, too few at the far end of a large grid.
        return ops.rotary_table(height, width, ops.rotary_frequencies(self.head_dim, self.angle.device))


class GatedAttention(nn.Module):
    """Attention over all tokens of a map with a local term and an output gate: proj((attended + lepe(v)) ⊙ o).

    Args:
        channels: C, split into `num_heads` heads.
        attention: the function of `ops` between q, k, v: 'softmax_attention', 'rala' or 'mala'.
    """

    backend: str | None = None  # set by the backbone

    def __init__(self, channels: int, num_heads: int, attention: str):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, channels // num_heads
        self.attention = attention
        self.qkvo = nn.Conv2d(channels, 4 * channels, 1)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        attended, value, gate = self.attend(self.qkvo(x), rotary)
        return self.proj(self.mix(attended, value, gate))

    def attend(self, qkvo: Tensor, rotary: RotaryTable) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, 4C, H, W]` → the attended map, v and o, each `[B, C, H, W]`."""
        parts = qkvo.chunk(4, dim=1)
        q, k, v = (self.split_heads(part) for part in parts[:3])  # [B, N, L, D]
        attended = ops.attend(self.attention, q, k, v, rotary, self.backend)  # [B, N, L, D]
        attended = attended.transpose(1, 2).reshape(qkvo.shape[0], *qkvo.shape[2:], -1).permute(0, 3, 1, 2)
        return attended, parts[2], parts[3]

    def split_heads(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, N, L, D]`."""
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)

    def mix(self, attended: Tensor, value: Tensor, gate: Tensor) -> Tensor:
        return (attended + self.lepe(value)) * gate

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
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


def is_plain(convolution: nn.Module) -> bool:
    """Whether a convolution computes with its weight and bias alone, so that they can be taken from it.

    Not if it is wrapped (LoRA, quantization), parametrized, pruned, or has hooks, which a call of it alone would run.
    """
    hooks = (convolution._forward_pre_hooks, convolution._forward_hooks, convolution._backward_pre_hooks,
             convolution._backward_hooks)
    return type(convolution) is nn.Conv2d and not any(hooks)


def add_convolved(convolution: nn.Module, x: Tensor) -> Tensor:
    """x + convolution(x), in fp32 as one convolution whose kernels have 1 added in the middle.

    Not where the convolution would round x: in half precision, and in the TF32 of NVIDIA's GPUs.
    """
    rounds = ops.compute_dtype(x) != torch.float32 or (x.is_cuda and torch.backends.cudnn.allow_tf32)
    if rounds or not is_plain(convolution):
        return x + convolution(x)
    identity = F.pad(x.new_ones(1, 1, 1, 1), [size // 2 for size in convolution.kernel_size for _ in range(2)])
    return F.conv2d(x, convolution.weight + identity, convolution.bias, padding=convolution.padding, groups=convolution.groups)


def scaled_projection(projection: nn.Module, scale: Tensor, x: Tensor) -> Tensor:
    """scale · projection(x); in fp32 the scale goes into the weights, which spares keeping projection(x) for its gradient.

    Not in half precision, where a scale of 1e-6 would leave weights that round to 0.
    """
    if ops.compute_dtype(x) != torch.float32 or not is_plain(projection):
        return scale * projection(x)
    return F.conv2d(x, scale.view(-1, 1, 1, 1) * projection.weight, scale.flatten() * projection.bias)


class Block(nn.Module):
    """Convolutional position, attention and feed-forward, each residual; the latter two with layer scale.

    `_forward_naive` says what is computed; `forward` computes it with less kept for the backward pass: the block's
    input, the projection to q, k, v, o, the attended map, the input of the second norm and the hidden map.
    """

    backend: str | None = None  # set by the backbone

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
        if self.backend == 'naive':
            return self._forward_naive(x, rotary)
        # The sum of the residual branches stays in the parameters' precision, as layer scale makes it in any case.
        x = x.to(torch.promote_types(x.dtype, self.gamma_1.dtype))
        x = self._attend(x, rotary)
        return x + self.drop_path(self._feed_forward(x))

    def _forward_naive(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        x = x + self.pos(x)
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x), rotary))
        return x + self.drop_path(self.gamma_2 * self.ffn(self.norm2(x)))

    def _attend(self, x: Tensor, rotary: RotaryTable) -> Tensor:
        """The first two residuals; a function of its own, so that its maps are gone when the hidden ones come."""
        x, qkvo = ops.recompute(self._position_and_qkvo, x)
        attended, value, gate = self.attn.attend(qkvo, rotary)
        return x + self.drop_path(ops.recompute(self._mix_and_project, attended, value, gate))

    def _position_and_qkvo(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = add_convolved(self.pos, x)
        return x, self.attn.qkvo(self.norm1(x))

    def _mix_and_project(self, attended: Tensor, value: Tensor, gate: Tensor) -> Tensor:
        return scaled_projection(self.attn.proj, self.gamma_1, self.attn.mix(attended, value, gate))

    def _expand(self, x: Tensor) -> Tensor:
        return self.ffn.fc1(self.norm2(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return ops.recompute(self._activate_and_project, ops.recompute(self._expand, x))
        return self._activate_and_project(self._expand(x))

    def _activate_and_project(self, hidden: Tensor) -> Tensor:
        # Each hidden map, the largest of all, is let go as soon as the next one is there.
        hidden = F.gelu(hidden)
        hidden = add_convolved(self.ffn.dwconv, hidden)
        return scaled_projection(self.ffn.fc2, self.gamma_2, hidden)

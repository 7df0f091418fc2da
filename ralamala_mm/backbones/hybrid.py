"""The four-stage backbone of both papers: linear attention in the first stages, softmax attention in the others."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModule, initialize
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ralamala_mm.checkpoints import load_backbone_checkpoint
from ralamala_mm.errors import OptionError
from ralamala_mm.families import (
    FAMILIES,
    NUM_STAGES,
    VARIANTS,
    AttentionCost,
    Family,
    Variant,
    resolve_linear_stages,
    resolve_variant,
)
from ralamala_mm.ops import ATTENTIONS, AUTO, RotaryTable, compute_dtype, describe_backends, has_values, resolve_backend

from .folders import PretrainedFolder
from .fusion import fuse_block, fuse_downsample, fuse_stem
from .layers import Block, Downsample, GatedAttention, LayerNorm2d, RotaryPosition, Stem

STRIDES = (4, 8, 16, 32)
MAX_BLOCK_GRAPHS = 64

_logged: set[tuple[str, str]] = set()  # a run, and a line that its logger was given


def _log_backends(stages: Sequence[tuple[int, str, int]], device: torch.device, dtype: torch.dtype, backend: str | None,
                  is_compiled: bool) -> None:
    """Has kernels checked before their first use, and logs once to each run's logger which backends compute the attentions.

    To MMEngine's current logger. Where nobody made one, which is outside of its runners and of our tools, to Python's logger
    `ralamala_mm`, which shows nothing by default.
    """
    line = describe_backends(stages, device, dtype, backend, is_compiled)
    logger = MMLogger.get_current_instance() if MMLogger._instance_dict else logging.getLogger('ralamala_mm')
    run = getattr(logger, 'instance_name', logger.name)  # all of MMEngine's loggers are called mmengine
    if (run, line) not in _logged:
        _logged.add((run, line))
        print_log(line, logger)


# As in `ops.dispatch`: torch.compile calls it while it traces.
_log_backends._dynamo_marked_constant = True


class Stage(nn.Module):
    """Blocks on one grid; `downsample` leads to the next stage and is left to the backbone to call."""

    def __init__(self, blocks: list[Block], head_dim: int, downsample: Downsample | None, with_cp: bool):
        super().__init__()
        self.RoPE = RotaryPosition(head_dim)
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        rotary = self.RoPE(*x.shape[2:])
        for block in self.blocks:
            x = self._run(block, x, rotary)
        return x

    def _run(self, block: Block, x: Tensor, rotary: RotaryTable) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, x, rotary, use_reentrant=False)
        return block(x, rotary)


class HybridVisionTransformer(PretrainedFolder, BaseModule):
    """Base of `RAVLT` and `MALA`, which name the attention of the stages in `linear_stages`.

    Args:
        arch: 't', 's', 'b', 'l', or a dict with `embed_dims`, `depths`, `num_heads` (4 values each) and, if wanted,
            `drop_path_rate`, `layer_scale_init` (4 values), `mlp_ratio`.
        in_channels: channels of the image.
        out_indices: stages whose maps are returned; later stages than the last of them are not built.
        drop_path_rate: rate of stochastic depth at the last block, rising linearly from 0; None takes the variant's.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and the first i stages (weights and statistics).
        norm_eval: keep batch norms at their stored statistics while training.
        norm_cfg: normalization of stem and downsampling. The released models train synchronized batch norm.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        compile: run the blocks through torch.compile; a dict gives its options. No names in the state dict change.
        channels_last: memory format that images enter in, which stem, `pos` and `downsample` keep; LayerNorm makes the rest
            of a block channels-last in either case, and maps are returned contiguous.
        pretrained: path or URL of weights; short for `init_cfg=dict(type='Pretrained', checkpoint=…)`.
        init_cfg: initialization as in MMEngine; takes the place of `pretrained`, which the configs here set.
        linear_stages: stages, from 0, whose blocks have linear attention; those of the others have softmax attention. None
            takes the family's, (0, 1) of RAVLT and MALA; their released weights are refused for others. With all four, time
            grows with the number of pixels.
        backend: what computes the attentions, one of `ops.BACKENDS`; 'auto' takes the fastest that is available, None what the
            environment variable RALAMALA_BACKEND says while the backbone is built, or else 'auto'. See `set_backend`.

    Raises:
        OptionError: an argument out of range.
    """

    linear_attention: ClassVar[str]  # a name in `ops.ATTENTIONS`
    family: ClassVar[Family | None] = None
    backend: str | None = None  # as `set_backend` resolved it

    def __init__(self, arch: str | dict = 's', in_channels: int = 3, out_indices: Sequence[int] = (0, 1, 2, 3),
                 drop_path_rate: float | None = None, frozen_stages: int = -1, norm_eval: bool = False,
                 norm_cfg: dict | None = None, with_cp: bool = False, compile: bool | dict = False,
                 channels_last: bool = True, pretrained: str | None = None, init_cfg: dict | list[dict] | None = None,
                 linear_stages: Sequence[int] | None = None, backend: str | None = None):
        if init_cfg is None and pretrained is not None:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg=init_cfg)
        self.arch = arch
        self.variant = resolve_variant(arch, self.family.variants if self.family else VARIANTS)
        self.out_indices = tuple(sorted(out_indices))
        if not self.out_indices or not set(self.out_indices) <= set(range(NUM_STAGES)):
            raise OptionError(f'out_indices must name stages from 0 to {NUM_STAGES - 1}, not {tuple(out_indices)}')
        if not -1 <= frozen_stages <= NUM_STAGES:
            raise OptionError(f'frozen_stages must lie between -1 and {NUM_STAGES}, not {frozen_stages}')
        self.linear_stages = resolve_linear_stages(linear_stages, self.family)
        self.channels_last = channels_last
        self._is_fused = False
        self._compile_options = compile
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        norm_cfg = norm_cfg or dict(type='SyncBN')
        self.settings = dict(arch=arch, in_channels=in_channels, out_indices=self.out_indices, drop_path_rate=drop_path_rate,
                             norm_cfg=norm_cfg, linear_stages=self.linear_stages)
        self.patch_embed = Stem(in_channels, self.variant.embed_dims[0], norm_cfg)
        rate = self.variant.drop_path_rate if drop_path_rate is None else drop_path_rate
        drop_paths = torch.linspace(0, rate, sum(self.variant.depths), device='cpu').split(list(self.variant.depths))
        self.layers = nn.ModuleList(
            self._build_stage(self.variant, i, drop_paths[i].tolist(), norm_cfg, with_cp)
            for i in range(self.out_indices[-1] + 1))
        self._attentions = tuple(
            (i + 1, stage.blocks[0].attn.attention, stage.RoPE.head_dim) for i, stage in enumerate(self.layers) if stage.blocks)
        # Keyed by stage, so that the keys of a released state dict fit whatever out_indices is.
        self.extra_norms = nn.ModuleDict({str(i): LayerNorm2d(self.variant.embed_dims[i]) for i in self.out_indices})
        self._reset_parameters()
        self.set_backend(backend)
        self._freeze()
        self._compile()

    def _build_stage(self, variant: Variant, i: int, drop_paths: list[float], norm_cfg: dict, with_cp: bool) -> Stage:
        channels, heads = variant.embed_dims[i], variant.num_heads[i]
        attention = self.linear_attention if i in self.linear_stages else 'softmax_attention'
        blocks = [Block(channels, heads, attention, variant.mlp_ratio, drop_path, variant.layer_scale_init[i])
                  for drop_path in drop_paths]
        last = i == self.out_indices[-1]
        downsample = None if last else Downsample(channels, variant.embed_dims[i + 1], norm_cfg)
        return Stage(blocks, channels // heads, downsample, with_cp)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        return tuple(self.variant.embed_dims[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Pixels of the image per step on each returned map."""
        return tuple(STRIDES[i] for i in self.out_indices)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the maps inside: channels-last makes LayerNorm free of copies and 1×1 convolutions plain matrix products."""
        return torch.channels_last if self.channels_last and self.backend != 'naive' else torch.contiguous_format

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image `[B, in_channels, H, W]` of any size → one map `[B, C_i, ⌈H/s_i⌉, ⌈W/s_i⌉]` per out_indices."""
        if has_values(x) and not torch.jit.is_tracing():
            _log_backends(self._attentions, x.device, compute_dtype(x), self.backend, bool(self._compile_options))
        x = self.patch_embed(x.contiguous(memory_format=self.memory_format))
        maps = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.out_indices:
                # Contiguous, whatever the format inside: mmcv's RoIAlign reads a channels-last map, and what
                # convolutions make of one, as if it were not (open-mmlab/mmcv issue 2203).
                maps.append(self.extra_norms[str(i)](x).contiguous())
            if i < self.out_indices[-1]:
                x = stage.downsample(x)
        return tuple(maps)

    def set_backend(self, name: str | None) -> None:
        """Has the attentions, and what is around them, computed by another backend; not between a forward and its backward pass.

        Args:
            name: as the argument `backend`.

        Raises:
            OptionError: there is no such backend, or it is not available with `compile`.
        """
        backend = resolve_backend(name)
        if self._compile_options and backend == 'onednn':
            raise OptionError('backend onednn is not available with compile: torch.compile makes the graphs itself')
        self.backend = backend
        for module in self.modules():
            if isinstance(module, (Stem, Block, GatedAttention)):
                module.backend = self.backend

    def fuse_for_inference(self) -> 'HybridVisionTransformer':
        """Folds batch norms and the weights of LayerNorms into the convolutions beside them, in place and for good.

        It saves memory, and on a CPU no time (docs/performance.md). Load the weights before; call it under `eval()`.

        Raises:
            OptionError: in training mode, whose batch statistics cannot be taken into weights.
        """
        if self.training:
            raise OptionError('fuse_for_inference() is for inference: call eval() first')
        if self._is_fused:
            return self
        fuse_stem(self.patch_embed)
        for stage in self.layers:
            for block in stage.blocks:
                fuse_block(block)
            if hasattr(stage, 'downsample'):
                fuse_downsample(stage.downsample)
        self._is_fused = True
        return self.requires_grad_(False)

    def init_weights(self) -> None:
        """Loads the checkpoints of `Pretrained` init_cfgs and reports what matched; other kinds as in MMEngine."""
        configs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained = [config for config in configs if config['type'] == 'Pretrained']
        if not pretrained:
            super().init_weights()
            return
        if others := [config for config in configs if config['type'] != 'Pretrained']:
            initialize(self, others)
        for config in pretrained:
            report = load_backbone_checkpoint(self, config['checkpoint'], prefix=config.get('prefix'))
            print_log(str(report), logger='current')
        self._is_init = True

    def train(self, mode: bool = True) -> 'HybridVisionTransformer':
        """Sets the mode, but leaves frozen stages, and with `norm_eval` all batch norms, in evaluation mode.

        Raises:
            OptionError: training after `fuse_for_inference()`.
        """
        if mode and self._is_fused:
            raise OptionError('this backbone was fused for inference and cannot be trained: build it anew')
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _load_from_state_dict(self, *args) -> None:
        """As in PyTorch, but weights that come after fusing are refused: their norms would have nowhere to go."""
        if self._is_fused:
            raise OptionError('this backbone was fused for inference: load the weights before fuse_for_inference()')
        super()._load_from_state_dict(*args)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[:self.frozen_stages]]
        frozen += [self.extra_norms[str(i)] for i in self.out_indices if i < self.frozen_stages]
        for module in frozen:
            module.eval().requires_grad_(False)

    def _compile(self) -> None:
        """Block by block: those of a stage share one graph, which takes a fraction of the time for the whole."""
        if not self._compile_options:
            return
        import torch._dynamo  # heavy

        # All blocks share one forward: four stages, in training and evaluation, for one image size and for any.
        limit = 'recompile_limit' if hasattr(torch._dynamo.config, 'recompile_limit') else 'cache_size_limit'
        setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), MAX_BLOCK_GRAPHS))
        for stage in self.layers:
            for block in stage.blocks:
                block.compile(**({} if self._compile_options is True else self._compile_options))

    def _reset_parameters(self) -> None:
        """Convolutions: truncated normal of std 0.02, bias 0. Norms start at 1 and 0 by themselves."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def __repr__(self) -> str:
        lines = [f'{type(self).__name__}(arch={self.arch!r}, out_indices={self.out_indices}, '
                 f'{sum(p.numel() for p in self.parameters()) / 1e6:.1f} M parameters']
        for i, stage in enumerate(self.layers):
            attention = stage.blocks[0].attn.attention if len(stage.blocks) else 'no'
            lines.append(f'  stage {i}: {len(stage.blocks)} blocks of {attention}, {self.variant.embed_dims[i]} channels, '
                         f'{self.variant.num_heads[i]} heads, stride {STRIDES[i]}')
        return '\n'.join(lines) + ')'


@contextmanager
def use_backend(model: nn.Module, name: str) -> Iterator[None]:
    """Has all backbones of this project in a model compute by a backend, 'auto' or one of `ops.BACKENDS`, for a while."""
    before = {module: module.backend for module in model.modules() if isinstance(module, HybridVisionTransformer)}
    try:
        for backbone in before:
            backbone.set_backend(name)
        yield
    finally:
        for backbone, backend in before.items():
            backbone.set_backend(backend or AUTO)


def register_family(linear_attention: str | Callable, cost: AttentionCost, **entry: object) -> Callable[[type], type]:
    """Decorates a subclass of `HybridVisionTransformer`: registers it in MMEngine's registry and in `FAMILIES`.

    Args:
        linear_attention: a name in `ops.ATTENTIONS`, or a function of q, k, v `[B, N, L, D]` and the rotary table, which is
            added there under its name.
        cost: of the linear attention.
        entry: other fields of `Family`.
    """
    def register(backbone: type) -> type:
        if callable(linear_attention):
            ATTENTIONS[linear_attention.__name__] = linear_attention
        backbone.linear_attention = getattr(linear_attention, '__name__', linear_attention)
        FAMILIES[backbone.__name__] = backbone.family = Family(backbone.__name__, backbone.linear_attention, cost, **entry)
        return MODELS.register_module(module=backbone)

    return register

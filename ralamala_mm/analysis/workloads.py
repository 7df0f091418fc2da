"""What the benchmark builds and runs: a backbone or one stage of it, a whole model, or one attention."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ralamala_mm import ops
from ralamala_mm.backbones.hybrid import STRIDES, HybridVisionTransformer
from ralamala_mm.errors import UserError
from ralamala_mm.families import FAMILIES, Family, family_of

# `ralamala_mm.engine`, which needs MMCV, is imported where configs are read: backbones and attentions are measured without it.

MODES = ('forward', 'forward+backward')  # of a backbone or an attention; whole models have 'train' and 'infer'
LIBRARIES = ('mmdet', 'mmseg')
NO_BACKEND = '-'  # of a backbone that is not ours
CHOSEN = 'chosen'  # the fastest backend that is available
OBJECTS_PER_IMAGE = 7  # as in COCO


@dataclass(frozen=True)
class Task:
    """One measurement."""

    subject: str  # see `load_subject`; or an attention by its name in `ops.ATTENTIONS`
    mode: str
    shape: tuple[int, int, int, int]  # of the images `[B, 3, H, W]`; of q, k, v `[B, N, L, D]`
    backend: str  # one of `ops.BACKENDS`, CHOSEN or NO_BACKEND
    device: str
    dtype: str  # float32; float16 or bfloat16 by autocast, for an attention as they are
    runs: int
    compiled: bool = False
    channels_last: bool = False  # baselines only; ours choose themselves
    with_cp: bool = False
    fused: bool = False  # ours only
    stage: int | None = None  # 0 to 3: this stage alone, its input a map of the size that it has for such images

    @property
    def title(self) -> str:
        short = split_short_name(self.subject)
        name = f'{short[0].name}-{short[1].upper()}' if short else self.subject
        return Path(name.rpartition('::')[2]).stem + (f', layers.{self.stage}' if self.stage is not None else '')

    @property
    def way(self) -> str:
        """The backend with the options that are on."""
        names = dict(compiled='compiled', channels_last='channels-last', with_cp='with_cp', fused='fused')
        return ', '.join([self.backend, *(text for name, text in names.items() if getattr(self, name))])


@dataclass(frozen=True)
class Workload:
    """`run(data)` is what takes the time; `fresh_data()` makes its argument, which a run may change."""

    run: Callable
    fresh_data: Callable


def split_short_name(name: str) -> tuple[Family, str] | None:
    """The family and the size of a name such as 'ravlt_s', None for others."""
    prefix, _, size = name.rpartition('_')
    family = next((family for family in FAMILIES.values() if family.name.lower() == prefix), None)
    return (family, size) if family and size in family.variants else None


def load_subject(name: str) -> Config:
    """The config of what is measured.

    Args:
        name: a backbone alone, such as 'ravlt_s'; a config file; 'mmdet::FOLDER/NAME.py' or 'mmdet::NAME' (and 'mmseg::…')
            for a config that comes with the library.

    Raises:
        UserError: there is no such config, or the library is not installed.
    """
    if short := split_short_name(name):
        return Config(dict(model=dict(backbone=dict(type=short[0].name, arch=short[1]))))
    from ralamala_mm.engine import load_config

    library, separator, rest = name.partition('::')
    if not separator:
        return load_config(name)
    if library not in LIBRARIES or (spec := find_spec(library)) is None:
        raise UserError(f'{name}: {library} is not installed, or not one of {", ".join(LIBRARIES)}')
    folder = Path(spec.origin).parent / '.mim' / 'configs'
    path = folder / rest
    if not path.is_file():
        path = next(folder.rglob(f'{Path(rest).name.removesuffix(".py")}.py'), path)
    try:
        return load_config(str(path))
    except UserError as error:  # a package that the config imports: MMEngine then lists the whole sys.path
        raise UserError(f'{name}: {str(error).partition(", the current sys.path")[0]}') from error


def is_hybrid(config: Config) -> bool:
    """Whether the backbone is of one of our families."""
    return family_of(config.model.backbone.type) is not None


def prepare(task: Task) -> Workload:
    """Builds what a task measures, with random weights, on its device.

    Raises:
        UserError: the config does not exist, or lacks what the task needs.
    """
    torch.manual_seed(0)
    if task.subject in ops.ATTENTIONS:
        return _attention(task)
    config = load_subject(task.subject)
    try:
        return _whole_model(task, config) if task.mode in ('train', 'infer') else _backbone(task, config)
    except TypeError as error:
        if not (task.with_cp and "argument 'with_cp'" in str(error)):
            raise
        raise UserError(f'{config.model.backbone.type} in {task.subject} has no with_cp: leave --with-cp out') from error


def _autocast(task: Task) -> torch.autocast:
    return torch.autocast(task.device, getattr(torch, task.dtype), enabled=task.dtype != 'float32')


def _backbone(task: Task, config: Config) -> Workload:
    backward = task.mode == 'forward+backward'
    backbone = _build_alone(_backbone_settings(config, task), config.get('default_scope')).to(task.device)
    backbone.train(backward)  # not chained: MMDetection's ResNet returns nothing from it
    _optimize(backbone, task)
    module, images = backbone, torch.rand(task.shape, device=task.device)
    if task.stage is not None:
        module, images = backbone.layers[task.stage], _stage_input(backbone, task)
    elif task.channels_last:
        module, images = backbone.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)

    def run(x: Tensor) -> None:
        with _autocast(task), torch.set_grad_enabled(backward):
            maps = module(x)
            loss = sum(y.float().mean() for y in (maps if isinstance(maps, list | tuple) else [maps]))
        if backward:
            loss.backward()
            backbone.zero_grad()

    return Workload(run, lambda: images.detach().requires_grad_(backward and task.stage is not None))


def _backbone_settings(config: Config, task: Task) -> dict:
    """The backbone's part of the config, without weights to download, and with recomputation if asked for."""
    settings = copy.deepcopy(config.model.backbone)
    if 'pretrained' in settings:
        settings.pretrained = None
    if task.with_cp:
        settings.with_cp = True
    if is_hybrid(config):
        settings.backend = ops.AUTO if task.backend == CHOSEN else task.backend
    if task.compiled and is_hybrid(config):
        settings.compile = True
    return settings


def _build_alone(settings: dict, scope: str | None) -> nn.Module:
    """Without the heads: what they leave behind in the allocator would hide a part of the peak memory."""
    if scope in LIBRARIES:
        import_module(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope or 'mmengine'):
        return revert_sync_batchnorm(MODELS.build(settings))


def _optimize(backbone: nn.Module, task: Task) -> None:
    if task.fused:
        backbone.fuse_for_inference()
    if task.compiled and not isinstance(backbone, HybridVisionTransformer):  # ours compile themselves, block by block
        backbone.compile()


def _stage_input(backbone: HybridVisionTransformer, task: Task) -> Tensor:
    batch, _, height, width = task.shape
    stride = STRIDES[task.stage]
    x = torch.rand(batch, backbone.variant.embed_dims[task.stage], -(-height // stride), -(-width // stride),
                   dtype=getattr(torch, task.dtype), device=task.device)
    return x.contiguous(memory_format=backbone.memory_format)  # as the stem leaves it


def _whole_model(task: Task, config: Config) -> Workload:
    from ralamala_mm.datasets.config import values_under
    from ralamala_mm.engine import build_model, keep_operators_in_fp32

    training, scope = task.mode == 'train', config.get('default_scope')
    if scope not in LIBRARIES:
        raise UserError(f'{task.mode} needs the config of a complete detector or segmentor, which {task.subject} is not')
    config.model.backbone = _backbone_settings(config, task)
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    if 'size' in preprocessor:  # MMSegmentation would pad to the config's own crop
        preprocessor.size = task.shape[2:]
    model = build_model(config).to(task.device).train(training)
    _optimize(model.backbone, task)
    make_data = _detection_data if scope == 'mmdet' else _segmentation_data
    data = make_data(task, min(values_under(config.model, 'num_classes'), default=2))
    if training:
        optim_wrapper = _optim_wrapper(model, config, task)

        def run(batch: dict) -> None:
            model.train_step(batch, optim_wrapper)
    else:
        keep_operators_in_fp32(model)

        def run(batch: dict) -> None:
            with _autocast(task), torch.no_grad():
                model.test_step(batch)

    return Workload(run, lambda: copy.deepcopy(data))  # padding changes masks and label maps in place


def _optim_wrapper(model: nn.Module, config: Config, task: Task):
    """The config's, clipping included; mixed precision as the training tool switches it on."""
    from ralamala_mm.engine import use_amp

    settings = {key: value for key, value in config.optim_wrapper.items() if key not in ('type', 'loss_scale', 'dtype')}
    config.optim_wrapper = dict(settings, type='OptimWrapper')
    if task.dtype != 'float32':
        use_amp(config, task.dtype)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return build_optim_wrapper(model, config.optim_wrapper)


def _detection_data(task: Task, num_classes: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    batch = task.shape[0]
    return demo_mm_inputs(batch, task.shape[1:], [OBJECTS_PER_IMAGE] * batch, num_classes, with_mask=True, use_box_type=True,
                          device=task.device)


def _segmentation_data(task: Task, num_classes: int) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    batch, channels, *size = task.shape
    info = dict(img_shape=size, ori_shape=size, pad_shape=size, flip=False)
    samples = [SegDataSample(metainfo=info, gt_sem_seg=PixelData(data=torch.randint(num_classes, (1, *size)))).to(task.device)
               for _ in range(batch)]
    return dict(inputs=[torch.randint(256, (channels, *size), dtype=torch.uint8, device=task.device) for _ in range(batch)],
                data_samples=samples)


def _attention(task: Task) -> Workload:
    """One attention on q, k, v that lie in one `qkvo` projection, as in a block."""
    batch, heads, length, head_dim = task.shape
    backward, dtype = task.mode == 'forward+backward', getattr(torch, task.dtype)
    qkvo = torch.randn(batch, length, 4, heads, head_dim, dtype=dtype, device=task.device)
    gradient = torch.randn(task.shape, dtype=dtype, device=task.device)
    height = max(side for side in range(1, int(length ** 0.5) + 1) if length % side == 0)
    rotary = ops.rotary_table(height, length // height, ops.rotary_frequencies(head_dim, task.device))
    backend = None if task.backend == CHOSEN else task.backend
    attention = partial(ops.attend, task.subject, backend=backend)
    if task.compiled:
        attention = torch.compile(attention)

    def run(x: Tensor) -> None:
        q, k, v, _ = x.permute(2, 0, 3, 1, 4)  # 4 × [B, N, L, D]
        with torch.set_grad_enabled(backward):
            out = attention(q, k, v, rotary)
        if backward:
            torch.autograd.grad(out, (q, k, v), gradient)

    return Workload(run, lambda: qkvo.detach().requires_grad_(backward))

"""Checks that test_pretended_cuda.py runs in a process of its own: on_pretended_cuda.py LIBRARY, or none where there is a GPU.

Prints a JSON object: the checks' names, and None or what each raised.
"""

import ctypes
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace

if __name__ == '__main__' and len(sys.argv) > 1:
    ctypes.CDLL(sys.argv[1])  # before PyTorch asks whether there is CUDA
os.environ.setdefault('TRITON_INTERPRET', '1')  # or there are no kernels for a device without a driver

import torch
import torch.distributed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ralamala_mm import MALA, RAVLT
from ralamala_mm.backbones import layers
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.engine.bfloat16 import BFloat16OptimWrapper
from ralamala_mm.engine.distributed import _Normalize
from ralamala_mm.engine.non_finite import NonFiniteHook
from ralamala_mm.families import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device('cuda', 0)
FAMILIES = (RAVLT, MALA)
TINY = dict(embed_dims=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)
PRECISIONS = {'fp32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}
SIZE = (97, 130)  # no multiple of the strides
COPIES = (torch.ops.aten.copy_.default,)


class OneDevice(TorchDispatchMode):
    """Raises where operands lie on several devices; FakeTensor does not for convolutions, nor for operators of ours."""

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        devices = {argument.device for argument in arguments if isinstance(argument, Tensor) and argument.dim()}
        if len(devices) > 1 and operator not in COPIES:
            raise RuntimeError(f'{operator} has operands on several devices: {devices}')
        return operator(*arguments, **keywords or {})


@contextmanager
def pretending(model: nn.Module | None = None, strict: bool = True) -> Iterator[None]:
    """Moves a model to the pretended device; tensors that are made within have no data.

    Args:
        model: of real or meta tensors.
        strict: refuses real tensors; MMDetection's anchor generators keep some.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, OneDevice():
        if model is not None:
            model.to_empty(device=CUDA)
        mode.allow_non_fake_inputs = not strict
        yield


def autocast(precision: str) -> torch.autocast:
    return torch.autocast('cuda', PRECISIONS[precision] or torch.float16, enabled=PRECISIONS[precision] is not None)


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=CUDA)


def finish(model: nn.Module, results: list[Tensor]) -> None:
    """Runs backward; results and gradients must be on the device, and there must be some."""
    assert results
    assert {result.device for result in results} == {CUDA}
    sum(result.float().sum() for result in results if result.requires_grad).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert {gradient.device for gradient in gradients} == {CUDA}


def check_backbone(family: type, arch: str | dict, backend: str, precision: str, with_cp: bool = False) -> None:
    os.environ['RALAMALA_BACKEND'] = backend
    with torch.device('meta'):
        backbone = family(arch, norm_cfg=dict(type='BN'), drop_path_rate=0.2, with_cp=with_cp)
    with pretending(backbone):
        with autocast(precision):
            maps = backbone(fake(2, 3, *SIZE))
        assert [tuple(x.shape[1:]) for x in maps] == [
            (channels, -(-SIZE[0] // stride), -(-SIZE[1] // stride))
            for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)]
        finish(backbone, list(maps))
        assert all(parameter.grad is not None for parameter in backbone.parameters())
        backbone.eval()
        with torch.inference_mode(), autocast(precision):
            assert {x.device for x in backbone(fake(1, 3, *SIZE))} == {CUDA}


def check_fused_backbone(family: type) -> None:
    os.environ['RALAMALA_BACKEND'] = ''
    with torch.device('meta'):
        backbone = family(TINY, norm_cfg=dict(type='BN')).eval()
    with pretending(backbone), torch.no_grad():
        backbone.fuse_for_inference()
        assert {x.device for x in backbone(fake(1, 3, *SIZE))} == {CUDA}


def make_model(config: str) -> nn.Module:
    os.environ['RALAMALA_BACKEND'] = ''
    settings = load_config(str(ROOT / 'configs' / 'demo' / f'{config}.py'))
    settings.model.backbone.update(arch=TINY)
    channels = [TINY['embed_dims'][i] for i in settings.model.backbone.get('out_indices', range(4))]
    if 'neck' in settings.model:
        settings.model.neck.in_channels = channels
    else:
        settings.model.decode_head.in_channels = channels
        settings.model.auxiliary_head.in_channels = channels[settings.model.auxiliary_head.in_index]
    return build_model(settings).train()


@contextmanager
def mixed_precision(model: nn.Module, precision: str) -> Iterator[None]:
    """As the training tool's: for bfloat16, by its optimizer's wrapper."""
    if precision == 'bf16':
        with BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)).optim_context(model):
            yield
    else:
        with autocast(precision):
            yield


def check_detector(config: str, precision: str) -> None:
    """Up to the dense head, its anchors, boxes and losses; box and mask heads from what RoIAlign would give."""
    model = make_model(config)
    dense = model.rpn_head if hasattr(model, 'rpn_head') else model.bbox_head
    with pretending(model, strict=False):
        results = []
        with mixed_precision(model, precision):
            scores, deltas = dense(model.extract_feat(fake(2, 3, 128, 160)))
            assert {x.dtype for x in [*scores, *deltas]} == {torch.float16 if precision == 'fp16' else torch.float32}
            anchors = dense.prior_generator.grid_priors([x.shape[-2:] for x in scores], device=CUDA)
            for score, delta, prior in zip(scores, deltas, anchors, strict=True):
                score, delta = (x.permute(0, 2, 3, 1).reshape(2 * len(prior), -1) for x in (score, delta))
                boxes = dense.bbox_coder.decode(prior.repeat(2, 1), delta, max_shape=(128, 160))
                results += [boxes, dense.loss_cls(score, fake(*score.shape), avg_factor=7),
                            dense.loss_bbox(delta, fake(*delta.shape), avg_factor=7)]  # a weight is inspected
            for box_head, mask_head in roi_heads(model):
                results += box_head(fake(6, box_head.in_channels, *box_head.roi_feat_size))
                masks = mask_head(fake(6, mask_head.in_channels, 14, 14))
                results.append(mask_head.loss_mask(masks, fake(6, *masks.shape[-2:]), fake(6, dtype=torch.long)))
        finish(model, results)


def roi_heads(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    if not hasattr(model, 'roi_head'):
        return []
    heads = [model.roi_head.bbox_head, model.roi_head.mask_head]
    return list(zip(*(head if isinstance(head, nn.ModuleList) else [head] for head in heads), strict=True))


def check_segmentor(config: str, precision: str) -> None:
    """Losses but for the accuracy beside them, which selects pixels; and the classes that are predicted."""
    model = make_model(config)
    with pretending(model, strict=False):
        images, labels = fake(2, 3, 128, 160), fake(2, 128, 160, dtype=torch.long)
        heads = [model.decode_head, *([model.auxiliary_head] if model.with_auxiliary_head else [])]
        with mixed_precision(model, precision):
            maps = model.extract_feat(images)
            logits = [nn.functional.interpolate(head(maps), labels.shape[1:], mode='bilinear') for head in heads]
            losses = [head.loss_decode(x, labels, ignore_index=head.ignore_index) for head, x in zip(heads, logits, strict=True)]
        finish(model, losses)
        model.eval()
        with torch.no_grad(), autocast(precision):
            classes = model.encode_decode(images, [dict(img_shape=(128, 160))] * 2).argmax(1)
        assert (classes.device, classes.shape) == (CUDA, labels.shape)


def check_non_finite_hook() -> None:
    """As far as the hook's only look at the values, after which nothing is made on a device."""
    with torch.device('meta'):
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    with pretending(model):
        hook, optimizer = NonFiniteHook(3), torch.optim.SGD(model.parameters(), lr=0.1)
        hook.before_train(SimpleNamespace(model=model, optim_wrapper=SimpleNamespace(optimizer=optimizer)))
        hook.before_train_iter(None, 0)
        loss = model(fake(5, 4)).sum()
        loss.backward()
        for look in (optimizer.step, partial(hook.after_train_iter, None, 0, outputs=dict(loss=loss, loss_a=loss.double()))):
            try:
                look()
            except DataDependentOutputException:
                continue
            raise AssertionError(f'{look} has not inspected the values')


def check_gathered_batch_norm() -> None:
    """With two processes, of which one is pretended."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group('fake', rank=0, world_size=2, store=FakeStore())
    with pretending():
        x = fake(2, 8, 5, 7).requires_grad_()
        normalized, *statistics = _Normalize.apply(x, 1e-5, None)
        normalized.sum().backward()
        assert {tensor.device for tensor in (normalized, x.grad, *statistics)} == {CUDA}


@contextmanager
def broken(module: object, name: str, by: Callable) -> Iterator[None]:
    right = getattr(module, name)
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, right)


def check_wrong_table(backend: str) -> None:
    """A rotary table on the CPU, as if the device had been forgotten."""
    frequencies = layers.ops.rotary_frequencies
    with broken(layers.ops, 'rotary_frequencies', lambda head_dim, device='cpu': frequencies(head_dim)):
        check_backbone(RAVLT, TINY, backend, 'fp32')


def check_wrong_kernel() -> None:
    """A convolution's kernel on the CPU."""
    def add_convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        return x + nn.functional.conv2d(x, torch.ones(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])

    with broken(layers, 'add_convolved', add_convolved):
        check_backbone(RAVLT, TINY, 'eager', 'fp32')


def check_wrong_gradient() -> None:
    """A tensor on the CPU that the backward pass alone sees."""
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * torch.ones(gradient.shape)

    projection = layers.scaled_projection
    with broken(layers, 'scaled_projection', lambda *arguments: Scale.apply(projection(*arguments))):
        check_backbone(RAVLT, TINY, 'eager', 'fp32')


DETECTORS = ('retinanet_ravlt_t_shapes', 'maskrcnn_ravlt_t_shapes', 'cascade_maskrcnn_ravlt_t_shapes')
SEGMENTORS = ('semanticfpn_ravlt_t_shapes', 'upernet_ravlt_t_shapes', 'upernet_mala_t_shapes')
CHECKS = {
    **{f'backbone {family.__name__} {backend} {precision}': partial(check_backbone, family, TINY, backend, precision)
       for family, backend, precision in product(FAMILIES, ('naive', 'eager', 'triton'), PRECISIONS)},
    **{f'backbone {family.__name__} {backend} with_cp': partial(check_backbone, family, TINY, backend, 'fp16', True)
       for family, backend in product(FAMILIES, ('eager', 'triton'))},
    **{f'backbone {family.__name__} fused': partial(check_fused_backbone, family) for family in FAMILIES},
    **{f'backbone {family.__name__} {arch}': partial(check_backbone, family, arch, '', 'fp16')
       for family, arch in product(FAMILIES, VARIANTS)},
    **{f'detector {config} {precision}': partial(check_detector, config, precision)
       for config, precision in product(DETECTORS, PRECISIONS)},
    **{f'segmentor {config} {precision}': partial(check_segmentor, config, precision)
       for config, precision in product(SEGMENTORS, PRECISIONS)},
    'hook NonFiniteHook': check_non_finite_hook,
    'hook GatheredBatchNorm': check_gathered_batch_norm,
    'broken table, eager': partial(check_wrong_table, 'eager'),
    'broken table, triton': partial(check_wrong_table, 'triton'),
    'broken kernel': check_wrong_kernel,
    'broken gradient': check_wrong_gradient,
}


def outcome(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == '__main__':
    if not torch.cuda.is_available():  # of which autocast makes sure, also where a checkpoint is computed again
        torch.cuda.amp.common.amp_definitely_not_available = lambda: False
        torch.cuda.is_bf16_supported = lambda *_, **__: True
    import_module('ralamala_mm.ops.numerics').SMALL = 0  # these maps are small, and are to be computed again as large ones are
    outcomes = {name: outcome(check) for name, check in CHECKS.items()}
    print(json.dumps(outcomes))
    sys.stdout.flush()
    os._exit(0)  # the engine's thread for the pretended device does not end by itself

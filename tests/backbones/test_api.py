"""The arguments and attributes of the backbones, as users of MMDetection and MMSegmentation expect them."""

import copy
import subprocess
import sys

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune

from ralamala_mm import MALA, RAVLT

BACKBONES = [RAVLT, MALA]
TINY = dict(embed_dims=[16, 32, 32, 64], depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 4])


@pytest.mark.parametrize('backbone_class', BACKBONES)
@pytest.mark.parametrize('size', [(4, 4), (4, 37), (33, 65), (64, 100)])
def test_any_image_size(backbone_class: type, size: tuple[int, int]):
    backbone = backbone_class(TINY).eval()
    maps = backbone(torch.randn(2, 3, *size))
    expected = [(2, channels, -(-size[0] // stride), -(-size[1] // stride))
                for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)]
    assert [tuple(result.shape) for result in maps] == expected
    assert all(result.isfinite().all() for result in maps)


@pytest.mark.parametrize('backbone_class', BACKBONES)
def test_out_indices_leave_no_parameter_without_gradient(backbone_class: type):
    """As plain DDP needs it, for RetinaNet's maps (1, 2, 3) and for fewer stages."""
    everything = backbone_class(TINY, drop_path_rate=0.0)
    for out_indices in [(1, 2, 3), (0, 1), (2,), (3, 0)]:
        backbone = backbone_class(TINY, out_indices=out_indices, drop_path_rate=0.0)
        assert backbone.out_channels == tuple(TINY['embed_dims'][i] for i in sorted(out_indices))
        missing = backbone.load_state_dict(everything.state_dict(), strict=False).missing_keys
        assert not missing
        image = torch.randn(2, 3, 40, 56)
        maps = backbone(image)
        sum(result.square().sum() for result in maps).backward()
        assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_out_indices_select_the_same_maps():
    everything = RAVLT(TINY).eval()
    some = RAVLT(TINY, out_indices=(1, 3)).eval()
    some.load_state_dict(everything.state_dict(), strict=False)
    image = torch.randn(1, 3, 48, 48)
    maps = everything(image)
    for result, expected in zip(some(image), (maps[1], maps[3]), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(('frozen_stages', 'autocast', 'channels_last'), [(-1, False, True), (2, False, True), (-1, True, False)])
@pytest.mark.parametrize('backbone_class', BACKBONES)
def test_activation_checkpointing_changes_nothing(backbone_class: type, frozen_stages: int, autocast: bool, channels_last: bool):
    image = torch.randn(2, 3, 40, 56)
    results = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        backbone = backbone_class(TINY, with_cp=with_cp, drop_path_rate=0.5, frozen_stages=frozen_stages,
                                  channels_last=channels_last).train()
        torch.manual_seed(2)  # the same paths are dropped
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            maps = backbone(image)
        sum(result.float().square().mean() for result in maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_frozen_stages():
    backbone = RAVLT(TINY, frozen_stages=2)
    assert backbone.train() is backbone
    frozen = {name.split('.')[0] + '.' + name.split('.')[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {'patch_embed.proj', 'layers.0', 'layers.1', 'extra_norms.0', 'extra_norms.1'}
    statistics = backbone.patch_embed.proj[1].running_mean.clone()
    backbone(torch.randn(2, 3, 32, 32))
    assert torch.equal(backbone.patch_embed.proj[1].running_mean, statistics)
    assert not RAVLT(TINY, frozen_stages=0).patch_embed.proj[0].weight.requires_grad
    assert all(p.requires_grad for p in RAVLT(TINY).parameters())


def test_norm_eval_keeps_statistics():
    backbone = MALA(TINY, norm_eval=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert backbone.layers[0].blocks[0].training


def test_norm_cfg():
    assert isinstance(RAVLT(TINY).patch_embed.proj[1], nn.SyncBatchNorm)
    backbone = RAVLT(TINY, norm_cfg=dict(type='BN', momentum=0.01, requires_grad=False))
    assert type(backbone.patch_embed.proj[1]) is nn.BatchNorm2d
    assert backbone.patch_embed.proj[1].momentum == 0.01
    assert not backbone.layers[0].downsample.norm.weight.requires_grad
    with pytest.raises(ValueError, match="norm_cfg type 'Nonsense' is not known"):
        RAVLT(TINY, norm_cfg=dict(type='Nonsense'))


def test_drop_path_rises_linearly_over_all_blocks():
    backbone = RAVLT('t', drop_path_rate=0.11)
    rates = [block.drop_path.rate for stage in backbone.layers for block in stage.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(12)])
    assert RAVLT('b').layers[3].blocks[-1].drop_path.rate == pytest.approx(0.4)


def test_drop_path_keeps_the_expectation():
    drop_path = RAVLT(TINY, drop_path_rate=0.25).layers[3].blocks[-1].drop_path.train()
    torch.manual_seed(0)
    kept = drop_path(torch.ones(20000, 1, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)  # 4 standard errors: 4 · √(1/3 / 20000) = 0.016


def test_initial_weights():
    backbone = RAVLT('b')
    weights = torch.cat([m.weight.flatten() for m in backbone.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert backbone.layers[2].blocks[0].gamma_1.unique().tolist() == pytest.approx([1e-6])
    assert backbone.layers[1].blocks[0].gamma_2.unique().tolist() == [1.0]


@pytest.mark.parametrize('backbone_class', BACKBONES)
def test_autocast_on_the_cpu(backbone_class: type):
    backbone = revert_sync_batchnorm(backbone_class('t', drop_path_rate=0.0)).train()
    image = torch.randn(1, 3, 128, 160)
    expected = backbone(image)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = backbone(image)
    sum(result.float().square().mean() for result in maps).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())
    for result, reference in zip(maps, expected, strict=True):
        # bf16 keeps 8 bits; the error grows with the root of some 60 roundings in a row.
        assert (result.float() - reference).abs().max() < 60 ** 0.5 * 2 ** -8 * reference.abs().max()


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(arch='xl'), "arch='xl' is not known; choose one of t, s, b, l"),
    (dict(arch=dict(TINY, width=3)), 'arch does not take width'),
    (dict(arch=dict(embed_dims=[8] * 4, depths=[1] * 4)), 'arch lacks num_heads'),
    (dict(arch=dict(TINY, depths=[1, 1])), r'depths must hold 4 values, one per stage, not \(1, 1\)'),
    (dict(arch=dict(TINY, num_heads=[1, 3, 2, 4])), '32 channels in 3 heads'),
    (dict(out_indices=(0, 4)), 'out_indices must name stages from 0 to 3'),
    (dict(out_indices=()), 'out_indices must name stages from 0 to 3'),
    (dict(frozen_stages=5), 'frozen_stages must lie between -1 and 4, not 5'),
])
def test_wrong_arguments(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RAVLT(**dict(dict(arch=TINY), **arguments))


def test_the_repr_reads():
    text = repr(RAVLT('s'))
    assert text.startswith("RAVLT(arch='s', out_indices=(0, 1, 2, 3), 24.0 M parameters")
    assert 'stage 2: 9 blocks of softmax_attention, 320 channels, 5 heads, stride 16' in text


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_registered_under_any_scope(scope: str):
    for module in dict(mmdet=['mmdet.registry'], mmseg=['mmseg.registry']).get(scope, []):
        __import__(module)
    registry = MODELS if scope == 'mmengine' else sys.modules[f'{scope}.registry'].MODELS
    with DefaultScope.overwrite_default_scope(scope):
        assert type(registry.build(dict(type='RAVLT', arch=TINY))) is RAVLT
        assert type(registry.build(dict(type='ralamala_mm.MALA', arch=TINY))) is MALA


def test_a_full_name_needs_no_custom_import():
    code = ("from mmdet.registry import MODELS; from mmengine.registry import DefaultScope\n"
            "with DefaultScope.overwrite_default_scope('mmdet'):\n"
            "    print(type(MODELS.build(dict(type='ralamala_mm.MALA', arch='t'))))")
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert 'ralamala_mm.backbones.mala.MALA' in result.stdout


def test_the_import_is_light():
    code = ('import time, sys, torch, mmengine.model, mmengine.runner; before = set(sys.modules); '
            'start = time.perf_counter(); import ralamala_mm; print(time.perf_counter() - start); '
            'print([name for name in ("mmdet", "mmseg", "mmcv", "triton") if name in set(sys.modules) - before])')
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    seconds, heavy = result.stdout.strip().splitlines()[-2:]
    assert float(seconds) < 1
    assert heavy == '[]'


@pytest.mark.parametrize('backbone_class', BACKBONES)
def test_fusing_for_inference_changes_no_result(backbone_class: type):
    torch.manual_seed(0)
    backbone = backbone_class(TINY)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if 'num_batches' not in name and 'angle' not in name:
                tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else tensor * 5 + 0.3 * torch.randn_like(tensor))
    image = torch.randn(2, 3, 41, 57)
    with pytest.raises(ValueError, match='call eval\\(\\) first'):
        backbone.fuse_for_inference()
    expected = backbone.eval()(image)
    entries = len(backbone.state_dict())
    fused = backbone.fuse_for_inference()
    assert fused is backbone.fuse_for_inference().eval()
    assert len(backbone.state_dict()) < entries
    assert not any(isinstance(module, _BatchNorm) for module in backbone.modules())
    for result, reference in zip(fused(image), expected, strict=True):
        assert not result.requires_grad
        # fp32 through some ten layers in another order.
        assert (result - reference).abs().max() < 1e-5 * reference.abs().max()
    with pytest.raises(ValueError, match='fused for inference and cannot be trained'):
        backbone.train()
    with pytest.raises(ValueError, match='load the weights before'):
        backbone.load_state_dict(backbone_class(TINY).state_dict(), strict=False)


@pytest.mark.parametrize('gamma', [1e-6, 1.0])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_fusing_is_as_exact_in_half_precision(dtype: torch.dtype, gamma: float):
    torch.manual_seed(0)
    backbone = RAVLT(TINY).eval()
    for stage in backbone.layers:
        for block in stage.blocks:
            nn.init.constant_(block.gamma_1, gamma)
            nn.init.constant_(block.gamma_2, gamma)
    image = torch.randn(2, 3, 41, 57)
    exact = backbone.double()(image.double())
    errors = []
    for fuse in (False, True):
        backbone.float()
        model = backbone.fuse_for_inference() if fuse else backbone
        with torch.autocast('cpu', dtype=dtype):
            maps = model(image)
        errors.append([(result - reference).abs().max().item() for result, reference in zip(maps, exact, strict=True)])
    for plain, fused in zip(*errors, strict=True):
        assert fused <= 2 * plain


def test_the_compile_option():
    """Training, evaluation and training again, without falling back for too many graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    backbone = RAVLT(TINY, compile=dict(backend='aot_eager', fullgraph=True), norm_cfg=dict(type='BN'))
    assert set(backbone.state_dict()) == set(RAVLT(TINY, norm_cfg=dict(type='BN')).state_dict())
    for training, side in [(True, 64), (True, 80), (False, 64), (False, 96), (True, 64)]:
        with torch.set_grad_enabled(training):
            backbone.train(training)(torch.randn(2, 3, side, side))
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 4
    torch._dynamo.reset()


def test_the_memory_format_inside_changes_no_result():
    image = torch.randn(2, 3, 40, 56)
    results = []
    for channels_last in (True, False):
        torch.manual_seed(1)
        results.append(RAVLT(TINY, channels_last=channels_last).eval()(image))
    for one, other in zip(*results, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other)


def test_rotary_tables_are_kept_for_a_grid_and_outlive_inference_mode():
    backbone = RAVLT(TINY, drop_path_rate=0.0)
    rope = backbone.layers[0].RoPE
    with torch.inference_mode():
        backbone(torch.randn(1, 3, 32, 48))
        table = rope(8, 12)
    assert rope(8, 12) is table
    assert rope(12, 8) is not table
    sum(result.sum() for result in backbone(torch.randn(1, 3, 32, 48))).backward()


@pytest.mark.parametrize(('backbone_class', 'backend'), [(RAVLT, 'eager'), (MALA, 'triton')])
def test_blocks_compile_to_one_graph_for_all_sizes(backbone_class: type, backend: str, monkeypatch: pytest.MonkeyPatch):
    """Traced and differentiated as by torch.compile, without the minutes of making code from it."""
    monkeypatch.setenv('RALAMALA_BACKEND', backend)
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = backbone_class(TINY, norm_cfg=dict(type='BN'), drop_path_rate=0.3).train()
    plain = copy.deepcopy(backbone)
    graphs = CompileCounterWithBackend('aot_eager')
    for stage in backbone.layers:
        for block in stage.blocks:
            block.compile(backend=graphs, fullgraph=True)
    for i, size in enumerate([(64, 96), (96, 80), (70, 130)]):
        image = torch.randn(2, 3, *size)
        results = []
        for model in (backbone, plain):
            torch.manual_seed(i)
            model.zero_grad()
            maps = model(image)
            sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in maps).backward()
            results.append([*maps, *(p.grad for p in model.parameters())])
        # Against the largest of all: a bias before a batch norm has no gradient but rounding.
        largest = max(reference.abs().max() for reference in results[1])
        for ours, reference in zip(*results, strict=True):
            assert (ours - reference).abs().max() <= 1e-5 * largest
        if i == 1:
            after_two_sizes = graphs.frame_count
    # The first size is taken as fixed, the second as one of many; no later one is new.
    assert graphs.frame_count == after_two_sizes <= 2 * len({tuple(stage.blocks[0].gamma_1.shape) for stage in plain.layers}) + 4


def wrap(block: nn.Module) -> None:
    """Layers as fine-tuning, pruning and quantization leave them: around a convolution, parametrized, with hooks."""
    class Adapted(nn.Module):
        def __init__(self, convolution: nn.Conv2d):
            super().__init__()
            self.base, self.more = convolution, nn.Conv2d(convolution.in_channels, convolution.out_channels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.more(x)

    block.attn.proj = Adapted(block.attn.proj)
    prune.random_unstructured(block.pos, 'weight', amount=0.5)
    parametrizations.spectral_norm(block.ffn.dwconv)
    block.ffn.fc2.register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize('backend', ['eager', 'naive'])
def test_layers_that_are_wrapped_pruned_or_hooked_take_part(backend: str, monkeypatch: pytest.MonkeyPatch):
    """Each of them changes the result of one block; the backends agree on what it is, and on all gradients."""
    monkeypatch.setenv('RALAMALA_BACKEND', backend)
    torch.manual_seed(0)
    plain = RAVLT(TINY, norm_cfg=dict(type='BN')).eval()
    wrapped = copy.deepcopy(plain)
    for stage in wrapped.layers:
        for block in stage.blocks:
            wrap(block)
    image = torch.randn(1, 3, 48, 64)
    maps = wrapped.eval()(image)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(maps, plain(image), strict=True))
    sum(x.square().mean() for x in maps).backward()
    gradients = {name: p.grad for name, p in wrapped.named_parameters()}
    wrapped.zero_grad()
    wrapped.set_backend('naive')
    expected = wrapped(image)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    sum(x.square().mean() for x in expected).backward()
    for name, p in wrapped.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-3, atol=1e-5, msg=name)

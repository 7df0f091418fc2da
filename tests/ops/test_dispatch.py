"""Which backend is selected; kernels that are broken on purpose, in Triton's interpreter where there is no GPU."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from ralamala_mm import MALA, ops
from ralamala_mm.backbones.hybrid import use_backend
from ralamala_mm.errors import OptionError, UserError
from ralamala_mm.ops import dispatch, eager, kernel_check

triton = pytest.importorskip('triton')
from ralamala_mm.ops import triton as backend  # noqa: E402
from ralamala_mm.ops import triton_kernels as kernels  # noqa: E402

tl = triton.language
DEVICE = torch.device('cuda', 0) if torch.cuda.is_available() else torch.device('cpu')
NAMES = sorted(ops.ATTENTIONS)
TINY = dict(embed_dims=(16, 32, 32, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))


@triton.jit
def wrong_feature_map(x):
    return tl.where(x > 0, x + 1.01, tl.exp(tl.minimum(x, 0)))


@triton.jit
def wrong_feature_gradient(x):
    return tl.where(x > 0, 1.02, tl.exp(tl.minimum(x, 0)))


@triton.jit
def wrong_turn(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # noqa: N803 as the kernels call it
    even, odd = tl.split(tl.reshape(x, (ROWS, WIDTH // 2, 2)))
    return tl.reshape(tl.join(even * cos + odd * sin, odd * cos - even * sin), (ROWS, WIDTH))


@triton.jit
def not_a_kernel(x):
    return tl.there_is_no_such_function(x)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch):
    """Nothing was decided yet, and nothing is forced."""
    monkeypatch.setattr(dispatch, '_problems', {})
    monkeypatch.setattr(dispatch, '_reported', set())
    monkeypatch.delenv('RALAMALA_BACKEND', raising=False)


@pytest.fixture
def as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The selection as it is on a GPU; without one, kernels run in the interpreter while tokens are said to lie on a GPU."""
    find_fault, find_obstacle = dispatch.find_fault, dispatch._find_obstacle
    monkeypatch.setattr(dispatch, 'find_fault', lambda attention, _, *rest: find_fault(attention, DEVICE, *rest))
    monkeypatch.setattr(dispatch, '_find_obstacle', lambda _, *rest: find_obstacle(DEVICE, *rest))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda _: 'a GPU')

    def select(attention: str, dtype: torch.dtype = torch.float32, head_dim: int = 16, **options) -> str:
        return ops.selected_backend(attention, torch.device('cuda', 0), dtype, head_dim, **options)

    return select


def make_tokens() -> tuple:
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 35, 16, generator=generator).to(DEVICE)
    return q, k, v, ops.rotary_table(5, 7, ops.rotary_frequencies(16, DEVICE))


def test_the_backend_is_selected_or_forced(monkeypatch: pytest.MonkeyPatch):
    assert ops.selected_backend('rala', torch.device('cpu'), torch.float32, 64) == 'eager'
    for name in ('naive', 'eager', 'triton'):
        assert ops.selected_backend('rala', DEVICE, torch.float32, 64, name) == name
    assert ops.selected_backend('softmax_attention', torch.device('cpu'), torch.float32, 64, 'onednn') == 'onednn'
    assert ops.selected_backend('rala', torch.device('cpu'), torch.bfloat16, 64, 'onednn') == 'eager'
    assert ops.selected_backend('rala', torch.device('cpu'), torch.float32, 64, 'auto') == 'eager'


def test_models_that_were_pickled_without_a_backend_select_one():
    backbone = MALA(TINY, norm_cfg=dict(type='BN')).eval()
    for module in backbone.modules():
        vars(module).pop('backend', None)
    assert backbone(torch.rand(1, 3, 32, 32))[0].shape == (1, 16, 8, 8)


def test_the_log_says_where_onednn_computes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch.onednn, 'mkl_is_slow', lambda: True)
    stages, cpu = [(2, 'mala', 16), (3, 'softmax_attention', 16)], torch.device('cpu')
    expected = 'attention: eager, stage 2; eager (onednn from 1000 to 5000 tokens), stage 3 (cpu, float32)'
    assert ops.describe_backends(stages, cpu, torch.float32) == expected
    assert ops.describe_backends(stages, cpu, torch.float32, is_compiled=True) == 'attention: eager, stages 2–3 (cpu, float32)'
    assert ops.describe_backends(stages, cpu, torch.float32, 'onednn') == (
        'attention: eager, stage 2; onednn, stage 3 (cpu, float32, forced)')


def test_a_backend_that_is_not_available():
    with pytest.raises(OptionError, match=r'backend triton .* is not available here: .* no kernels for torch.float64'):
        ops.selected_backend('rala', DEVICE, torch.float64, 64, 'triton')
    with pytest.raises(OptionError, match=r'backend onednn .* is not available here: .* float32 on CPUs, not for float16 on cpu'):
        ops.selected_backend('softmax_attention', torch.device('cpu'), torch.float16, 64, 'onednn')
    with pytest.raises(OptionError, match='backend=fast is not known'):
        ops.rala(*make_tokens(), 'fast')


def test_the_environment_is_read_when_a_backbone_is_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RALAMALA_BACKEND', 'naive')
    backbone = MALA(TINY, norm_cfg=dict(type='BN'))
    assert MALA(TINY, norm_cfg=dict(type='BN'), backend='auto').backend is None
    monkeypatch.setenv('RALAMALA_BACKEND', 'fastest')
    assert {module.backend for module in backbone.modules() if hasattr(module, 'backend')} == {'naive'}
    with pytest.raises(OptionError, match='RALAMALA_BACKEND=fastest is not known; choose one of auto, naive, eager, onednn'):
        MALA(TINY, norm_cfg=dict(type='BN'))
    with pytest.raises(OptionError, match='backend=fast is not known'):
        backbone.set_backend('fast')
    with pytest.raises(OptionError, match='backend onednn is not available with compile'):
        MALA(TINY, norm_cfg=dict(type='BN'), backend='onednn', compile=True)
    with use_backend(nn.Sequential(backbone), 'eager'):
        assert {block.backend for stage in backbone.layers for block in stage.blocks} == {'eager'}
    assert {block.attn.backend for stage in backbone.layers for block in stage.blocks} == {'naive'}


def test_without_triton_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch, as_on_gpus: Callable):
    monkeypatch.setitem(sys.modules, 'triton', None)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert as_on_gpus('rala') == 'eager'
    with pytest.raises(OptionError, match='not available here: the package triton is needed'):
        as_on_gpus('rala', backend='triton')


@pytest.mark.parametrize('head_dim', [16, 36, 64, 96])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', NAMES)
def test_kernels_pass_their_check(name: str, dtype: torch.dtype, head_dim: int):
    assert len(NAMES) == 3
    if backend.launch_for(DEVICE, dtype, head_dim) is None:
        pytest.skip('no kernels for these on this GPU')
    assert kernel_check.find_fault(name, DEVICE, dtype, head_dim) is None


@pytest.mark.parametrize(('name', 'part', 'broken', 'fault'), [
    ('rala', '_feature_map', wrong_feature_map, r'output: error \d.\d\de-0\d, tolerance \d.\d\de-0\d; gradient of q'),
    ('mala', '_feature_gradient', wrong_feature_gradient, r': gradient of q: error \d.\d\de-0\d, .*; gradient of k: error'),
    ('softmax_attention', '_turn', wrong_turn, r'output: error \d'),
    ('mala', '_rounded', not_a_kernel, 'Error: .*not_a_kernel'),
    ('rala', 'attend', None, "AttributeError: 'NoneType' object has no attribute"),
])
def test_a_broken_kernel_ends_in_one_warning_and_eager(
        name: str, part: str, broken: object, fault: str, monkeypatch: pytest.MonkeyPatch, as_on_gpus: Callable):
    with monkeypatch.context() as context:
        context.setattr(kernels, part, broken)
        with pytest.warns(RuntimeWarning, match=fault) as caught:
            assert as_on_gpus(name) == 'eager'
    (message,) = [str(warning.message) for warning in caught]
    assert f'kernels of {name} failed their check on cuda:0 (a GPU), float32, 16 channels per head: ' in message
    assert message.endswith('the eager backend is used for the rest of this process')

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        monkeypatch.setattr(dispatch, 'find_fault', lambda *_: pytest.fail('checked again'))
        assert as_on_gpus(name) == 'eager'  # although the kernels would work now


def test_after_a_fault_no_other_kernels_are_tried(monkeypatch: pytest.MonkeyPatch, as_on_gpus: Callable):
    """Those that were found good before continue: their backend never changes within a process."""
    assert as_on_gpus('rala') == 'triton'
    monkeypatch.setattr(kernels, '_turn', wrong_turn)
    with pytest.warns(RuntimeWarning, match='softmax_attention') as caught:
        assert as_on_gpus('softmax_attention') == as_on_gpus('mala') == as_on_gpus('rala', torch.float16) == 'eager'
    assert len(caught) == 1
    assert as_on_gpus('rala') == 'triton'
    stages = [(1, 'rala', 16), (2, 'rala', 16), (3, 'softmax_attention', 16), (4, 'mala', 16)]
    assert ops.describe_backends(stages, torch.device('cuda', 0), torch.float32) == (
        'attention: triton, stages 1–2; eager (kernels failed their check), stage 3; eager (kernels failed before), stage 4 '
        '(cuda:0, float32)')


def test_forced_kernels_that_are_broken_are_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, '_feature_gradient', wrong_feature_gradient)
    message = (r'backend triton \(argument backend, or RALAMALA_BACKEND\) is not available here: the Triton kernels of rala '
               'failed their check .* gradient of q: error')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(2):
            with pytest.raises(OptionError, match=message):
                ops.rala(*make_tokens(), 'triton')


def test_a_gpu_that_no_longer_answers(monkeypatch: pytest.MonkeyPatch):
    """After an access to a wrong address no other backend works in that process either."""
    def synchronize(device: torch.device) -> None:
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(torch.cuda, 'synchronize', synchronize)
    kernel_check.raise_if_unusable(DEVICE, RuntimeError('wrong address'))
    with pytest.raises(UserError, match=r'left cuda:0 unusable for this process \(wrong address\): start again with RALAMALA'):
        kernel_check.raise_if_unusable(torch.device('cuda', 0), RuntimeError('wrong address'))


def test_the_check_leaves_no_trace():
    """Not in random numbers, not in the caller's modes; and those do not reach it."""
    packed = []

    def pack(x: Tensor) -> Tensor:
        packed.append(x)
        return x

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with (torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16), torch.device('meta'),
          torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)):
        assert ops.selected_backend('rala', DEVICE, torch.float32, 16, 'triton') == 'triton'
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled(DEVICE.type)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not packed
    with torch.no_grad():
        assert ops.selected_backend('mala', DEVICE, torch.float32, 16, 'triton') == 'triton'


def test_threads_check_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(dispatch, 'find_fault', lambda *key: calls.append(key))
    key = ('rala', DEVICE, torch.float32, 16)
    threads = [threading.Thread(target=ops.selected_backend, args=(*key, 'triton')) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [key]


@pytest.mark.parametrize('forced', [None, 'triton'])
def test_nothing_is_checked_under_fake_tensors(forced: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch, 'find_fault', lambda *_: pytest.fail('checked'))
    backbone = MALA(TINY, norm_cfg=dict(type='BN'), backend=forced)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert backbone(torch.empty(1, 3, 64, 96))[0].shape == (1, 16, 16, 24)
        on_gpu = torch.empty(1, 2, 35, 16, device='cuda:0')  # pretended where there is none
    if forced is None:
        assert dispatch._module('rala', on_gpu, None) is eager
    assert not dispatch._problems


def test_nothing_is_checked_during_a_capture_or_a_backward_pass(monkeypatch: pytest.MonkeyPatch, as_on_gpus: Callable):
    """A GPU's, which is pretended here."""
    monkeypatch.setattr(dispatch, 'find_fault', lambda *_: pytest.fail('checked'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    with pytest.warns(RuntimeWarning, match='run the model once before the capture'):
        assert as_on_gpus('rala') == 'eager'
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)

    seen = []
    x = torch.ones((), requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: seen.append(as_on_gpus('rala')))
    y.backward()
    assert seen == ['eager']
    assert not dispatch._problems


@pytest.mark.parametrize('broken', [False, True])
def test_a_traced_model_checks_before_and_outside_its_graph(broken: bool, monkeypatch: pytest.MonkeyPatch):
    """torch.compile before any other call; where kernels fail, the graph has the eager operators."""
    if broken:
        monkeypatch.setattr(kernels, '_feature_map', wrong_feature_map)
    monkeypatch.setattr(dispatch, 'selected_backend', select_as_on_gpus)
    torch._dynamo.reset()
    backbone = MALA(TINY, norm_cfg=dict(type='BN'), drop_path_rate=0.0).to(DEVICE)
    graphs = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(backbone, backend=graphs, fullgraph=True, dynamic=False)
    image = torch.randn(2, 3, 64, 96, device=DEVICE)
    with pytest.warns(RuntimeWarning, match='kernels of mala failed their check') if broken else warnings.catch_warnings():
        maps = compiled(image)
    names = {str(node.target) for graph in graphs.graphs for node in graph.graph.nodes}
    assert any('ralamala_mm' in name for name in names) != broken
    assert {key[0] for key in dispatch._problems} == {'mala', 'softmax_attention'}
    for ours, reference in zip(maps, backbone(image), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-5)


def select_as_on_gpus(attention: str, device: torch.device, dtype: torch.dtype, head_dim: int, backend: str | None = None,
                      may_check: bool = True, length: int = 0) -> str:
    """`selected_backend` of a GPU, for tokens on any device."""
    return 'eager' if dispatch._why_no_kernels(attention, device, dtype, head_dim, may_check, False) else 'triton'


def test_attentions_alone_compile():
    torch._dynamo.reset()
    q, k, v, rotary = make_tokens()
    for x in (q, k, v):
        x.requires_grad_()
    for name in NAMES:
        compiled = torch.compile(ops.ATTENTIONS[name], backend='aot_eager', fullgraph=True)
        outputs = [compiled(q, k, v, rotary, 'triton'), getattr(eager, name)(q, k, v, rotary)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in outputs]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Lines that an MMEngine logger of some name was given."""
    lines: dict[str, list[str]] = {}

    def lines_of(name: str) -> list[str]:
        handler = logging.Handler()
        handler.emit = lambda record: lines.setdefault(name, []).append(record.getMessage())
        MMLogger.get_instance(name).addHandler(handler)
        return lines.setdefault(name, [])

    monkeypatch.setattr(MMLogger, '_instance_dict', MMLogger._instance_dict.copy())
    return lines_of


def test_each_run_logs_once_which_backend_computes_what(logged: Callable):
    backbone = MALA(TINY, norm_cfg=dict(type='BN')).to(DEVICE).eval()
    image = torch.randn(1, 3, 32, 48, device=DEVICE)
    texts = dict(naive='naive, stages 1–4', eager='eager, stages 1–4',
                 triton="triton, stages 1–2; PyTorch's softmax attention (rotary: triton), stages 3–4")
    for forced, text in texts.items():
        backbone.set_backend(forced)
        lines = logged(f'test_backends_{forced}')
        for _ in range(2):
            backbone(image)
        assert lines == [f'attention: {text} ({DEVICE}, float32, forced)']
    if DEVICE.type == 'cpu':
        with torch.autocast('cpu', torch.bfloat16):
            MALA(TINY, out_indices=(0,), norm_cfg=dict(type='BN')).eval()(image)
        assert lines[1:] == ['attention: eager, stage 1 (cpu, bfloat16)']


def test_a_plain_pytorch_program_prints_nothing(call: Callable):
    done = call('python', '-c', f'''import torch
from ralamala_mm import MALA
MALA({TINY}, norm_cfg=dict(type='BN')).eval()(torch.rand(1, 3, 32, 32))''')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')

"""The synchronised batch norm over gloo against PyTorch's BatchNorm on the whole batch in one process."""

import copy
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from ralamala_mm.engine.distributed import GatheredBatchNorm, gather_batch_norms

CHANNELS = 3
# name: images of each rank (cut to the number of ranks), arguments, dtype, memory format, mode
CASES = {
    'equal': dict(images=(2, 2, 2)),
    'unequal': dict(images=(1, 4, 2)),
    'an empty rank': dict(images=(3, 0, 2)),
    'an empty first rank': dict(images=(0, 2, 1)),
    'channels last': dict(images=(2, 1, 3), memory_format=torch.channels_last),
    'cumulative average': dict(images=(2, 2, 1), arguments=dict(momentum=None)),
    'no running statistics': dict(images=(2, 2, 1), arguments=dict(track_running_stats=False)),
    'not affine': dict(images=(2, 2, 1), arguments=dict(affine=False)),
    'single': dict(images=(2, 1, 2), dtype=torch.float32),
    'far from zero': dict(images=(2, 1, 2), dtype=torch.float32, offset=1e4),
    'bfloat16': dict(images=(2, 1, 2), dtype=torch.bfloat16),
    'evaluation': dict(images=(2, 1, 2), train=False),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def batch(case: dict, ranks: int, step: int) -> tuple[Tensor, Tensor, list[int]]:
    """The whole batch, the weights of its loss, both rounded to the case's dtype, and the images of each rank."""
    images = list(case['images'][:ranks])
    generator = torch.Generator().manual_seed(step)
    shape = (sum(images), CHANNELS, 4, 5)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1 + case.get('offset', 0)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    dtype = case.get('dtype', torch.float64)
    return x.to(dtype).double(), weights.to(dtype).double(), images


def run_steps(norm: nn.Module, case: dict, ranks: int, rank: int | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Two steps on the part of `rank`, or on everything; outputs, gradients and the state afterwards."""
    result = {}
    for step in range(2):
        x, weights, images = batch(case, ranks, step)
        if rank is not None:
            start = sum(images[:rank])
            x, weights = (tensor[start:start + images[rank]] for tensor in (x, weights))
        x = x.to(dtype).contiguous(memory_format=case.get('memory_format', torch.contiguous_format)).requires_grad_()
        out = norm(x)
        assert out.dtype == dtype
        if case.get('memory_format') and images:
            assert out.is_contiguous(memory_format=torch.channels_last)
        (out * weights.to(dtype)).sum().backward()
        result |= {f'out{step}': out.detach(), f'input_grad{step}': x.grad}
    result |= {f'grad.{name}': parameter.grad for name, parameter in norm.named_parameters()}
    return result | {f'state.{name}': value for name, value in norm.state_dict().items()}


def make(kind: type, case: dict, dtype: torch.dtype) -> nn.Module:
    norm = kind(CHANNELS, **case.get('arguments', {})).to(dtype)
    with torch.no_grad():
        for i, tensor in enumerate([*norm.parameters(), *(b for b in norm.buffers() if b.is_floating_point())]):
            tensor += torch.arange(CHANNELS).to(dtype) * (i + 1) / 7
    return norm.train(case.get('train', True))


def process(rank: int, ranks: int, folder: str) -> None:
    """One of the processes: all cases, one after another, and what only a process of a group can show."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=ranks)
    results = {}
    for name, case in CASES.items():
        dtype = case.get('dtype', torch.float64)
        results[name] = run_steps(make(GatheredBatchNorm, case, dtype), case, ranks, rank, dtype)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        GatheredBatchNorm(CHANNELS)(torch.rand(1 if rank == 0 else 0, CHANNELS, 1, 1))
    empty = GatheredBatchNorm(CHANNELS)
    assert empty(torch.rand(0, CHANNELS, 2, 2)).shape == (0, CHANNELS, 2, 2)
    assert empty.running_mean.eq(0).all()
    with torch.no_grad():
        frozen = GatheredBatchNorm(CHANNELS)
        assert not frozen(torch.rand(2, CHANNELS, 2, 2)).requires_grad
    wrapped = nn.parallel.DistributedDataParallel(gather_batch_norms(nn.Sequential(nn.Conv2d(3, 3, 1), nn.SyncBatchNorm(3))))
    wrapped(torch.rand(2, 3, 4, 4)).square().sum().backward()
    torch.save(results, Path(folder, f'{rank}.pt'))
    distributed.barrier()
    os._exit(0)  # gloo's threads may keep a process from ending


@pytest.fixture(scope='module', params=[2, 3])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each process computed, by case."""
    folder = tmp_path_factory.mktemp('gloo')
    started = multiprocessing.spawn(process, (request.param, str(folder)), nprocs=request.param, join=False)
    deadline = time.monotonic() + 300
    while not started.join(timeout=1):
        if time.monotonic() > deadline:
            for one in started.processes:
                one.kill()
            pytest.fail('the processes wait for one another')
    return [torch.load(folder / f'{rank}.pt') for rank in range(request.param)]


def reference(case: dict, ranks: int) -> dict[str, Tensor]:
    """The whole batch in one process, in double precision."""
    norm = make(nn.BatchNorm2d, case, case.get('dtype', torch.float64)).double()
    return run_steps(norm, case, ranks, None, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_as_batch_norm_on_the_whole_batch(name: str, processes: list[dict]):
    case = CASES[name]
    results = [result[name] for result in processes]
    expected = reference(case, len(processes))
    tolerance = TOLERANCES[case.get('dtype', torch.float64)]
    if case.get('offset'):
        tolerance *= case['offset'] / 3  # what rounding the inputs' mean to fp32 costs
    assert results[0].keys() == expected.keys()
    assert {'out0', 'out1', 'input_grad0', 'input_grad1'} <= expected.keys()
    for key, value in expected.items():
        if key.startswith(('out', 'input_grad')):
            actual = torch.cat([result[key] for result in results])
        elif key.startswith('grad.'):
            actual = sum(result[key].double() for result in results)
        else:
            actual = results[0][key]
            assert all(torch.equal(result[key], actual) for result in results)  # no rank drifts away
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(actual.double(), value.double(), rtol=0, atol=tolerance * scale)


def test_alone_it_is_a_batch_norm():
    plain = make(nn.BatchNorm2d, {}, torch.float32)
    gathered = make(GatheredBatchNorm, {}, torch.float32)
    assert list(gathered.state_dict()) == list(plain.state_dict())
    x = torch.rand(2, CHANNELS, 4, 4)
    assert torch.equal(plain(x), gathered(x))
    assert torch.equal(plain.running_var, gathered.running_var)
    assert torch.equal(plain.eval()(x), gathered.eval()(x))


def test_replacing_keeps_parameters_and_state():
    model = nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3, momentum=None), nn.BatchNorm2d(4),
                          nn.ModuleDict(dict(inner=nn.SyncBatchNorm(2, affine=False, track_running_stats=False)))).eval()
    before = copy.copy(model.state_dict())
    weight = model[0].weight
    gathered = gather_batch_norms(model)
    assert [type(module).__name__ for module in (gathered[0], gathered[1], gathered[2]['inner'])] == [
        'GatheredBatchNorm', 'BatchNorm2d', 'GatheredBatchNorm']
    assert gathered[0].weight is weight
    assert (gathered[0].eps, gathered[0].momentum, gathered[0].training) == (1e-3, None, False)
    assert gathered[2]['inner'].running_mean is None
    after = gathered.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert type(gather_batch_norms(model, also_plain=True)[1]) is GatheredBatchNorm

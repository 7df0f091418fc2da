"""The clock on the parts of a step, on made-up parts that let a made-up time pass."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tool_modules import load_tool
from torch import Tensor, nn

steps = load_tool('analysis_tools/profile_step')
PartClock, as_summary, as_table, measure_worker = steps.PartClock, steps.as_summary, steps.as_table, steps.measure_worker

Wait = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets time pass."""
    time = SimpleNamespace(passed=0.0)
    monkeypatch.setattr(steps, 'now', lambda: time.passed)

    def wait(seconds: float) -> None:
        time.passed += seconds

    return wait


class Head:
    """Losses of 1 s, which compute targets of 2 s."""

    def __init__(self, wait: Wait):
        self.wait = wait

    def loss(self, broken: bool = False) -> None:
        self.wait(1)
        self.targets(broken)

    def targets(self, broken: bool) -> None:
        self.wait(2)
        if broken:
            raise ValueError


def test_time_belongs_to_the_innermost_part(wait: Wait):
    first, second, unknown = (Head(wait) for _ in range(3))
    clock = PartClock('rest', methods=[(first, 'loss', 'losses'), (first, 'targets', 'targets'), (second, 'loss', 'others')])
    first.loss()  # before it runs
    with clock:
        wait(10)
        first.loss()
        second.loss()
        unknown.loss()
        with pytest.raises(ValueError):
            first.loss(broken=True)
        wait(20)
    first.loss()
    assert clock.seconds == {'rest': 33, 'losses': 2, 'targets': 4, 'others': 3}
    assert clock.whole == 42


def test_a_part_that_was_running_before(wait: Wait):
    """The hook that starts the clock lies within methods that it follows from their next call on."""
    clock = PartClock('rest', methods=[(loop := Loop(wait, 3), 'run_step', 'step')])
    loop.clock = clock
    loop.run()
    assert clock.seconds == {'rest': 12, 'step': 2}


class Loop:
    """Steps of 1 s after 5 s each; the clock starts in the first and stops in the last."""

    def __init__(self, wait: Wait, count: int):
        self.wait, self.count = wait, count

    def run(self) -> None:
        for i in range(self.count):
            self.wait(5)
            self.run_step(i)

    def run_step(self, i: int) -> None:
        if i == 0:
            self.clock.__enter__()
            self.wait(2)
        self.wait(i > 0)
        if i == self.count - 1:
            self.clock.__exit__()


class Layer(nn.Module):
    """Takes 3 s, and 7 s backwards."""

    def __init__(self, wait: Wait):
        super().__init__()
        self.wait = wait
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.wait(3)
        return Waiting.apply(x, self.weight, self.wait)


class Waiting(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, wait: Wait) -> Tensor:
        ctx.wait = wait
        return x * weight

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.wait(7)
        return gradient, gradient.sum().reshape(1), None


class Backbone(nn.Module):
    """Two stages, each with a map of its own."""

    def __init__(self, wait: Wait):
        super().__init__()
        self.stages = nn.ModuleList(Layer(wait) for _ in range(2))
        self.norms = nn.ModuleList(Layer(wait) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps


class Neck(nn.Module):
    """From the coarse map to the fine one, as a feature pyramid."""

    def __init__(self, wait: Wait):
        super().__init__()
        self.layers = nn.ModuleList(Layer(wait) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        coarse = self.layers[1](maps[1])
        return [self.layers[0](maps[0]) + coarse, coarse]


def test_the_backward_pass_is_divided(wait: Wait):
    backbone, neck, head = Backbone(wait), Neck(wait), Layer(wait)
    clock = PartClock('rest', modules=[(backbone, 'backbone'), (neck, 'neck'), (head, 'head')],
                      methods=[(step := Step(backbone, neck, head), 'backward', 'backward of the head')],
                      backwards=[(backbone, 'backward of the backbone'), (neck, 'backward of the neck')])
    with clock:
        step.run(torch.ones(4))
    assert clock.seconds == {
        'rest': 0, 'backbone': 4 * 3, 'neck': 2 * 3, 'head': 2 * 3,
        'backward of the head': 2 * 7, 'backward of the neck': 2 * 7, 'backward of the backbone': 4 * 7}
    assert not backbone._forward_hooks
    assert not neck._forward_pre_hooks


def test_nothing_within_a_module_is_followed(wait: Wait):
    """Neither methods, nor modules that are parts themselves."""
    head, inner = Head(wait), Layer(wait)
    outer = nn.Sequential(inner, Calling(head))
    clock = PartClock('rest', modules=[(outer, 'outer'), (inner, 'inner')], methods=[(head, 'loss', 'losses')])
    head.loss = head.loss  # an attribute of the object already
    with clock:
        outer(torch.ones(4))
        head.loss()
    assert clock.seconds == {'rest': 0, 'outer': 3 + 3, 'losses': 3}
    assert 'loss' in vars(head)
    head.loss()
    assert clock.whole == 9


class Calling(nn.Module):
    def __init__(self, head: Head):
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        self.head.loss()
        return x


class Step:
    """A head on each of the neck's maps."""

    def __init__(self, backbone: Backbone, neck: Neck, head: Layer):
        self.backbone, self.neck, self.head = backbone, neck, head

    def run(self, x: Tensor) -> None:
        self.backward(sum(self.head(m).sum() for m in self.neck(self.backbone(x))))

    def backward(self, loss: Tensor) -> None:
        loss.backward()


class Transform:
    """Takes as many seconds as it is told."""

    def __init__(self, wait: Wait, seconds: float):
        self.wait, self.seconds = wait, seconds

    def transform(self, results: dict) -> dict:
        self.wait(self.seconds)
        return results


class Data:
    """Four images, each after 1 s."""

    def __init__(self, wait: Wait, transforms: list[Transform]):
        self.wait = wait
        self.pipeline = SimpleNamespace(transforms=transforms)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        self.wait(1)
        results = dict(index=index)
        for transform in self.pipeline.transforms:
            results = transform.transform(results)
        return results


@pytest.mark.parametrize('wrap', [lambda data: data, lambda data: Wrapper(data)], ids=['plain', 'wrapped'])
def test_a_worker_by_its_transforms(wait: Wait, wrap: Callable):
    flip = type('Flip', (Transform,), {})
    measured = measure_worker(wrap(Data(wait, [Transform(wait, 2), flip(wait, 3), Transform(wait, 4)])), 3)
    assert measured == dict(images=3, seconds=10, parts={'rest': 1, 'Transform': 6, 'Flip': 3})
    assert '| Flip | 3.0000 | 30.0% |' in as_table(measured, 'image')


class Wrapper:
    """As a RepeatDataset."""

    def __init__(self, dataset: Data):
        self.dataset = dataset

    def __len__(self) -> int:
        return 2 * len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index % len(self.dataset)]


def test_the_summary_counts_workers():
    training = dict(seconds=1.0, unobserved=0.8, parts={'backbone: forward': 0.2, 'backbone: backward': 0.5, 'optimizer': 0.3})
    text = as_summary(training, dict(seconds=0.5), batch_size=4)
    assert 'The backbone takes 70.0% (forward 20.0%, backward 50.0%), everything else 30.0%' in text
    assert 'takes 5.00 images/s, one worker makes 2.00: 3 would do' in text

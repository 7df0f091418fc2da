"""How far a file's results lie from PyTorch's, and how far they may.

The bound is derived: two ways in which PyTorch computes the same model, naive and eager, differ by rounding alone. A file may
differ by `MARGIN` times as much, and in any case by `FLOOR` of the largest value.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MARGIN = 10
FLOOR = 1e-5
SAME_BOX = 0.9  # overlap from which two boxes of one class are the same detection
FLOOR_SHARE = 0.01  # of detections or pixels, near thresholds and ties, that may turn out otherwise
CEILING_SHARE = 0.1  # however many turn out otherwise in PyTorch itself


@dataclass
class Difference:
    """One number of a comparison: how large it is, of what, and the least bound that makes sense for it."""

    name: str
    value: float
    floor: float
    unit: str = ''

    def __str__(self) -> str:
        number = f'{100 * self.value:.2f} %' if self.unit == 'share' else f'{self.value:.1e}{self.unit}'
        return f'{self.name} {number}'


def compare_maps(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> list[Difference]:
    """Largest difference of feature maps, in parts of the largest value of each map."""
    if [m.shape for m in expected] != [m.shape for m in found]:
        return [Difference('maps of another shape', float('inf'), 0)]
    return [Difference('maps', max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
                                   for a, b in zip(expected, found, strict=True)), FLOOR)]


def compare_results(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[Difference]:
    """Detections or classes of pixels, by the names of a `ImageModel`'s outputs."""
    if 'classes' in expected:
        if expected['classes'].shape != found['classes'].shape:
            return [Difference('classes of another shape', float('inf'), 0)]
        other = expected['classes'] != found['classes']
        return [Difference('pixels of another class', float(other.float().mean()), FLOOR_SHARE, 'share'),
                Difference('scores', float((expected['scores'] - found['scores']).abs().max()), FLOOR)]
    return _compare_detections(expected, found)


def _compare_detections(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[Difference]:
    mine, theirs = match(expected, found)
    total = max(len(expected['boxes']), len(found['boxes']))
    differences = [Difference('without a partner', 1 - len(mine) / total if total else 0.0, FLOOR_SHARE, 'share')]
    if len(mine):
        a, b = ({key: value[places] for key, value in side.items()} for side, places in ((expected, mine), (found, theirs)))
        reach = float(expected['boxes'].abs().max())
        differences += [Difference('boxes', float((a['boxes'] - b['boxes']).abs().max()), 10 * FLOOR * reach, ' pixels'),
                        Difference('scores', float((a['scores'] - b['scores']).abs().max()), 10 * FLOOR)]
        if 'masks' in a:
            area = a['masks'].flatten(1).sum(1).clamp(min=1)
            share = ((a['masks'] != b['masks']).flatten(1).sum(1) / area).mean()
            differences.append(Difference("masks' pixels", float(share), FLOOR_SHARE, 'share'))
    return differences


def match(expected: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Pairs of detections of one class that overlap by `SAME_BOX` at least: places in the one and in the other."""
    if not len(expected['boxes']) or not len(found['boxes']):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    overlap = _overlap(expected['boxes'], found['boxes'])
    overlap[expected['labels'][:, None] != found['labels']] = 0
    # Of detections that lie on each other the nearest in score are the same.
    nearness = 1 - (expected['scores'][:, None] - found['scores']).abs()
    pairs, free = [], torch.ones(overlap.shape[1], dtype=torch.bool)
    for i in range(overlap.shape[0]):
        candidates = torch.where((overlap[i] >= SAME_BOX) & free, overlap[i] + nearness[i], -1.0)
        j = int(candidates.argmax())
        if candidates[j] > 0:
            pairs.append((i, j))
            free[j] = False
    places = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """IoU of `[K, 4]` and `[M, 4]`: `[K, M]`; 1 for equal boxes without area."""
    from mmdet.structures.bbox import bbox_overlaps  # segmentors are exported without MMDetection

    return bbox_overlaps(a, b).masked_fill((a[:, None] == b[None]).all(-1), 1)


def faults(found: list[Difference], rounding: list[Difference]) -> list[str]:
    """What exceeds its bound, in words; empty if the file is as good as PyTorch.

    Args:
        found: PyTorch against the file.
        rounding: PyTorch against itself on another backend.
    """
    usual = {difference.name: difference.value for difference in rounding}
    bounds = [max(difference.floor, MARGIN * usual.get(difference.name, 0.0)) for difference in found]
    bounds = [min(bound, CEILING_SHARE) if one.unit == 'share' else bound for one, bound in zip(found, bounds, strict=True)]
    return [f'{difference} (allowed: {Difference("", bound, 0, difference.unit)})'.replace('( ', '(').replace(':  ', ': ')
            for difference, bound in zip(found, bounds, strict=True) if not difference.value <= bound]


def times_in_turn(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median seconds of two functions called one after the other, after a call each to warm up."""
    taken = ([], [])
    for run in range(runs + 1):
        for function, times in zip((first, second), taken, strict=True):
            started = time.perf_counter()
            function()
            if run:
                times.append(time.perf_counter() - started)
    return statistics.median(taken[0]), statistics.median(taken[1])


def scale_random_weights(model: nn.Module, call: Callable[[], object]) -> None:
    """Gives a model without a checkpoint weights with which it finds something.

    As at the start of a training it finds nothing. Here what each layer gives has the variance 1, measured while `call` runs.
    """
    handles, done = [], set()

    def scale(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        if module in done or output.numel() < 2:
            return None
        done.add(module)
        deviation = output.std().clamp(min=1e-6)
        module.weight.div_(deviation)
        if module.bias is not None:
            module.bias.div_(deviation)
        return output / deviation

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity='linear')
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            handles.append(module.register_forward_hook(scale))
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()

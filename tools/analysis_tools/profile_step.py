"""Where the time of training and evaluation goes, part by part:  profile_step.py configs/maskrcnn_ravlt_s.py --iterations 5

Every moment belongs to the innermost part that is running, so that the parts add up to the whole. Modules are timed by
PyTorch's forward hooks; the methods of what is no module (assigners, losses, proposals, the optimizer) by wrappers on the
objects; the backward pass, which goes through the forward pass's operations in reverse order, is divided where it comes to the
maps that neck and backbone returned. torch.profiler is for single operators: of a training step of RAVLT-T alone it records
12,056, which it takes as long to sort as the step takes, and its ranges (`record_function`) do not subtract one another.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from ralamala_mm.analysis.speed import machine
from ralamala_mm.datasets.config import datasets_of
from ralamala_mm.engine import (
    Console,
    add_amp_options,
    build_runner,
    drop_validation,
    launched_rank,
    prepare_config,
    prepare_data,
    resolve_pretrained,
    run,
    runner_parser,
    start_processes,
    use_amp,
)
from ralamala_mm.errors import UserError

WORKER_IMAGES = 50  # their sizes differ, and random transforms too
WARM_UP = 3  # iterations: the first ones start workers, fill caches and pick kernels
DATA, REST, HOOKS = 'waiting for data', 'rest of the step', 'hooks: schedule, log'
BACKBONE, BACKBONE_BACKWARD = 'backbone: forward', 'backbone: backward'

# Attributes of MMDetection's and MMSegmentation's models; stages of a cascade and several auxiliary heads count together.
_MODULES = {
    'data_preprocessor': 'data preprocessor', 'backbone': BACKBONE, 'neck': 'neck: forward',
    'roi_head.bbox_roi_extractor': 'box head: RoI features', 'roi_head.mask_roi_extractor': 'mask head: RoI features'}
_HEADS = {'rpn_head': 'RPN head', 'bbox_head': 'box head', 'roi_head.bbox_head': 'box head', 'roi_head.mask_head': 'mask head',
          'decode_head': 'decode head', 'auxiliary_head': 'auxiliary head'}
_HEAD_METHODS = {'forward': 'forward', 'get_targets': 'targets', 'loss_by_feat': 'losses',
                 'loss_and_target': 'losses', 'predict_by_feat': 'predictions'}  # of the RPN: proposals
_METHODS = {'roi_head.bbox_assigner': ('assign', 'box head: targets'), 'roi_head.bbox_sampler': ('sample', 'box head: targets')}


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class PartClock:
    """Divides time among parts.

    Args:
        rest: the part that runs where no other does.
        modules: (module, part) pairs, a part being one call of the module. Nothing within them is followed further.
        methods: (object, name of its method, part) triples; within these parts, others may run.
        backwards: (module, part) pairs: the backward pass reaches the part when it comes to what the module returned.
    """

    def __init__(self, rest: str, modules: Iterable[tuple[nn.Module, str]] = (), methods: Iterable[tuple[object, str, str]] = (),
                 backwards: Iterable[tuple[nn.Module, str]] = ()):
        self.seconds: dict[str, float] = defaultdict(float)
        self.whole = 0.0
        self._rest = rest
        self._modules = list(modules)
        self._methods = list(methods)
        self._backwards = list(backwards)
        self._running: list[str] = []  # innermost last
        self._modules_running = 0
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> 'PartClock':
        for module, part in self._modules:
            self._undo += [module.register_forward_pre_hook(lambda *_, part=part: self._enter_module(part)).remove,
                           module.register_forward_hook(lambda *_: self._leave_module(), always_call=True).remove]
        for module, part in self._backwards:
            self._undo.append(module.register_forward_hook(
                lambda _, inputs, maps, part=part: self._divide_backward(maps, part)).remove)
        for holder, name, part in self._methods:
            self._wrap(holder, name, part)
        self._running = [self._rest]
        self._begun = self._read = now()
        return self

    def __exit__(self, *error) -> None:
        self._account()
        self.whole += self._read - self._begun
        self._running = []
        while self._undo:
            self._undo.pop()()

    def _account(self) -> None:
        read = now()
        self.seconds[self._running[-1]] += read - self._read
        self._read = read

    def _enter_module(self, part: str) -> None:
        self._modules_running += 1
        if self._modules_running == 1:
            self._enter(part)

    def _leave_module(self) -> None:
        self._modules_running -= 1
        if self._modules_running == 0:
            self._leave()

    def _enter(self, part: str) -> None:
        self._account()
        self._running.append(part)

    def _leave(self) -> None:
        if self._running:  # the clock may stop within a part
            self._account()
            self._running.pop()

    def _wrap(self, holder: object, name: str, part: str) -> None:
        """Has the clock run for `part` while a method of one object runs."""
        method = getattr(holder, name)

        @functools.wraps(method)
        def timed(*args: object, **options: object) -> object:
            if self._modules_running:
                return method(*args, **options)
            self._enter(part)
            try:
                return method(*args, **options)
            finally:
                self._leave()

        self._undo.append(functools.partial(setattr, holder, name, method) if name in vars(holder)
                          else functools.partial(delattr, holder, name))
        setattr(holder, name, timed)

    def _divide_backward(self, maps: Iterable[Tensor] | Tensor, part: str) -> None:
        def reached(gradient: Tensor) -> None:
            self._account()
            self._running[-1] = part

        for feature_map in [maps] if isinstance(maps, Tensor) else maps:
            if feature_map.requires_grad:
                feature_map.register_hook(reached)


def _attributes(holder: object, path: str) -> Iterator[object]:
    """What lies at a dotted path; every item where there is a list; nothing where an attribute is missing or None."""
    name, _, inner = path.partition('.')
    found = getattr(holder, name, None)
    for item in found if isinstance(found, list | tuple | nn.ModuleList) else [found]:
        if item is not None:
            yield from _attributes(item, inner) if inner else [item]


def _parts_of(model: nn.Module) -> dict[str, list]:
    """`modules` and `methods` of a detector or a segmentor for a `PartClock`."""
    modules = [(module, part) for path, part in _MODULES.items() for module in _attributes(model, path)]
    methods = [(holder, method, part) for path, (method, part) in _METHODS.items() for holder in _attributes(model, path)]
    for path, title in _HEADS.items():
        for head in _attributes(model, path):
            methods += [(head, method, f'{title}: {part}') for method, part in _HEAD_METHODS.items() if hasattr(head, method)]
    return dict(modules=modules, methods=methods)


def training_clock(runner: Runner) -> PartClock:
    """A clock for a runner whose training loop runs."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parts = _parts_of(model)
    optim_wrapper = runner.optim_wrapper
    parts['methods'] += [
        (runner.train_loop, 'run_iter', REST), (runner, 'call_hook', HOOKS),
        (optim_wrapper, 'backward', 'losses and heads: backward'),
        (optim_wrapper, 'step', 'optimizer'), (optim_wrapper, 'zero_grad', 'optimizer')]
    followed_by = {'neck': 'neck: backward', 'backbone': BACKBONE_BACKWARD}
    return PartClock(DATA, **parts, backwards=[
        (module, part) for path, part in followed_by.items() for module in _attributes(model, path)])


def evaluation_clock(runner: Runner) -> PartClock:
    """A clock for a runner whose validation loop runs."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parts = _parts_of(model)
    evaluator = runner.val_loop.evaluator
    parts['methods'] += [
        (runner.val_loop, 'run_iter', REST), (runner, 'call_hook', HOOKS),
        (evaluator, 'process', 'metric: taking in predictions'), (evaluator, 'evaluate', 'metric: computing')]
    return PartClock(DATA, **parts)


class _Enough(Exception):  # noqa: N818 as it is no error
    """Enough iterations were measured."""


class StepHook(Hook):
    """Times iterations without and then with a clock on their parts, and ends the training."""

    priority = 'VERY_LOW'

    def __init__(self, iterations: int):
        self.iterations = iterations
        self.clock: PartClock | None = None
        self.unobserved = 0.0  # seconds of `iterations` iterations without the clock
        self._done = 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        self._done += 1
        if self._done == WARM_UP:
            self._begun = now()
        elif self._done == WARM_UP + self.iterations:
            self.unobserved = now() - self._begun
            self.clock = training_clock(runner)
            self.clock.__enter__()
        elif self._done == WARM_UP + 2 * self.iterations:
            self.clock.__exit__()
            raise _Enough


def measure_training(runner: Runner, iterations: int) -> dict:
    """Trains for a few iterations; returns seconds per iteration, whole and by part.

    Raises:
        UserError: the config's training is shorter than that.
    """
    hook = StepHook(iterations)
    runner.register_hook(hook)
    try:
        runner.train()
    except _Enough:
        return dict(unobserved=hook.unobserved / iterations, **_per(hook.clock, iterations))
    raise UserError(f'the training ends after {runner.train_loop.max_iters} iterations, and {WARM_UP + 2 * iterations} are '
                    'needed: give fewer by --iterations')


def measure_evaluation(runner: Runner) -> dict:
    """Evaluates on the validation data after `measure_training`; returns seconds per image, whole and by part."""
    images = len(runner.val_loop.dataloader.dataset)
    clock = evaluation_clock(runner)
    with clock:
        runner.val_loop.run()
    return dict(images=images, **_per(clock, images))


def measure_worker(dataset: Dataset, images: int) -> dict:
    """Loads images as a data loader worker does, which has one thread; returns seconds per image, whole and by transform."""
    indices = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:images].tolist()
    clock = PartClock('rest', methods=[(transform, 'transform', type(transform).__name__) for transform in _transforms(dataset)
                                       if hasattr(transform, 'transform')])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dataset[indices[0]]
    with clock:
        for index in indices:
            dataset[index]
    torch.set_num_threads(threads)
    return dict(images=len(indices), **_per(clock, len(indices)))


def _transforms(dataset: Dataset) -> Iterator[object]:
    """The transforms of a data set and of those that it wraps."""
    if hasattr(dataset, 'pipeline'):
        yield from dataset.pipeline.transforms
    for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if inner is not None:
            yield from _transforms(inner)


def _per(clock: PartClock, count: int) -> dict:
    return dict(seconds=clock.whole / count, parts={part: seconds / count for part, seconds in clock.seconds.items()})


def as_table(measured: dict, unit: str) -> str:
    """A Markdown table: each part's seconds and its share of the whole.

    Args:
        measured: of `measure_training`, `measure_evaluation` or `measure_worker`.
        unit: what the seconds are for, 'iteration' or 'image'.
    """
    whole = measured['seconds']
    rows = [f'| {part} | {seconds:.4f} | {seconds / whole:.1%} |' for part, seconds in measured['parts'].items()]
    return '\n'.join([f'| part | seconds per {unit} | share |', '|-|-|-|', *rows, f'| whole | {whole:.4f} | 100.0% |'])


def as_summary(training: dict, worker: dict, batch_size: int) -> str:
    """Three sentences: the backbone's share, what the clock adds, and how many workers keep up with the training.

    Args:
        training: of `measure_training`.
        worker: of `measure_worker`.
        batch_size: images per iteration.
    """
    parts = training['parts']
    forward, backward = (parts.get(part, 0.0) / training['seconds'] for part in (BACKBONE, BACKBONE_BACKWARD))
    trained, loaded = batch_size / training['unobserved'], 1 / worker['seconds']
    return (f'The backbone takes {forward + backward:.1%} (forward {forward:.1%}, backward {backward:.1%}), '
            f'everything else {1 - forward - backward:.1%}.\n'
            f'Without reading the clock for each part an iteration takes {training["unobserved"]:.4f} s.\n'
            f'The training takes {trained:.2f} images/s, one worker makes {loaded:.2f}: {math.ceil(trained / loaded)} would do.')


def main(args: argparse.Namespace) -> None:
    if args.iterations < 1 or args.val_images < 0:
        raise UserError('--iterations must be 1 or more, --val-images 0 or more')
    config = prepare_config(args)
    if args.amp:
        use_amp(config, args.amp)
    start_processes(config)
    prepare_data(config, ['train', 'val'], args.data, crowds=args.iscrowd)
    resolve_pretrained(config)
    config.default_hooks.checkpoint = None  # this training is no result
    config.train_cfg.val_interval = sys.maxsize  # evaluation is measured apart, after it
    if not args.val_images:
        drop_validation(config)
    for _, dataset in datasets_of(config, ['val']):
        dataset.indices = args.val_images  # the first so many
    runner = build_runner(config, Console.ERRORS)

    training = measure_training(runner, args.iterations)
    loader = config.train_dataloader
    worker = measure_worker(runner.train_dataloader.dataset, WORKER_IMAGES)
    report = dict(config=args.config, machine=machine('cuda' if torch.cuda.is_available() else 'cpu'), iterations=args.iterations,
                  batch_size=loader.batch_size, num_workers=loader.num_workers, training=training, worker=worker)
    if config.get('val_evaluator'):
        report['evaluation'] = measure_evaluation(runner)
    if launched_rank(args.launcher):
        return
    print(f'\nTraining, {loader.batch_size} images an iteration, {loader.num_workers} workers\n{as_table(training, "iteration")}'
          f'\n\n{as_summary(training, worker, loader.batch_size)}\n\nLoading, by one worker\n{as_table(worker, "image")}')
    if 'evaluation' in report:
        print(f'\nEvaluation of {report["evaluation"]["images"]} images\n{as_table(report["evaluation"], "image")}')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
    parser = runner_parser('Show where the time of training and evaluation goes.')
    add_amp_options(parser)
    parser.add_argument('--iterations', type=int, default=10, metavar='N',
                        help='N are timed as they are, then N part by part; default 10')
    parser.add_argument('--val-images', type=int, default=20, metavar='N', help='images to evaluate, 0 for none; default 20')
    parser.add_argument('--json', type=Path, metavar='FILE', help='file for the numbers')
    run(parser, main)

"""Data order and random numbers that follow from the iteration alone, and loops that continue from any iteration.

Every sample gets a seed from the run's seed and its position in the training, and so does every iteration's forward pass.
What a sample looks like then depends neither on the data loader's workers nor on how samples are spread over ranks.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler, Dataset, Sampler

_SAMPLE, _FORWARD = 0, 1  # what a seed is for


class SeededIndex(int):
    """The index of a sample in its data set, with the seed of its place in the training."""

    seed: int

    def __new__(cls, index: int, seed: int) -> 'SeededIndex':
        placed = super().__new__(cls, index)
        placed.seed = seed
        return placed

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


def _derived_seed(*numbers: int) -> int:
    """64 bits that differ, and are unrelated, where any of the numbers differs."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_forward(seed: int, iteration: int) -> None:
    """Seeds the random numbers of one training iteration: dropped paths, sampled boxes; other ones on each process."""
    derived = _derived_seed(seed, _FORWARD, get_dist_info()[0], iteration)
    _seed_cpu(derived)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(derived)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose random numbers are seeded for each sample by its place in the training.

    In all else it is the data set within it.

    Args:
        dataset: the config of that data set.
    """

    def __init__(self, dataset: dict):
        self.__dict__['inner'] = DATASETS.build(dataset)

    def __getitem__(self, index: int):
        if isinstance(index, SeededIndex):
            _seed_cpu(index.seed)
        return self.inner[int(index)]

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str):
        if name.startswith('__') or 'inner' not in self.__dict__:  # while it is unpickled in a worker
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.inner, name, value)  # hooks of MMDetection set the pipeline


@DATA_SAMPLERS.register_module()
class ContinuingBatchSampler(Sampler):
    """Batches of another batch sampler, which can begin anywhere, with a seed for each sample.

    Args:
        sampler: gives the indices of this process.
        batch_size: samples of this process in a batch.
        batches: config of the batch sampler, such as MMDetection's `AspectRatioBatchSampler`; plain batches by default.
        drop_last: leave a last batch out that is not full. Then each epoch has exactly as many batches on every process.
        begin: batches of the training that are done.
    """

    def __init__(self, sampler: Sampler, batch_size: int, batches: dict | None = None, drop_last: bool = False, begin: int = 0):
        self.samples = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        # MMDetection's batch sampler may give fewer batches than it says if it drops the last; here it drops none.
        default_args = dict(sampler=sampler, batch_size=batch_size, drop_last=False)
        batches = {key: value for key, value in (batches or dict(type=BatchSampler)).items() if key != 'drop_last'}
        self.batches = DATA_SAMPLERS.build(batches, default_args=default_args)
        self.has_epochs = hasattr(sampler, 'epoch')
        self._epochs_before = begin // len(self) if self.has_epochs else 0
        self._begin = begin % len(self) if self.has_epochs else begin
        self.set_epoch(0)

    @property
    def sampler(self) -> 'ContinuingBatchSampler':
        """Itself: MMEngine sets the epoch on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, counted from the one that this process began with."""
        if self.has_epochs:
            self.samples.set_epoch(epoch + self._epochs_before)

    def begin_at(self, batch: int) -> None:
        """Lets the next pass through the data begin there; the passes after it are whole."""
        self._begin = batch

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size if self.drop_last else len(self.batches)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        rank, world_size = get_dist_info()
        seed = getattr(self.samples, 'seed', None) or 0
        begin, self._begin = self._begin, 0
        before = self.samples.epoch * len(self) if self.has_epochs else 0
        for number, batch in enumerate(self.batches):
            if self.drop_last and self.has_epochs and number == len(self):
                return
            if number >= begin:
                place = (before + number) * self.batch_size
                yield [SeededIndex(index, _derived_seed(seed, _SAMPLE, (place + i) * world_size + rank))
                       if isinstance(index, int) else index  # MMDetection's video samplers give pairs
                       for i, index in enumerate(batch)]


def continuing_loader(loader: ConfigDict, done: int = 0) -> ConfigDict:
    """A training data loader's config whose order and random numbers follow from the place in the training.

    Args:
        loader: the config as MMEngine takes it.
        done: batches that are trained, for loops that make the data loader's iterator at once.
    """
    batches = loader.get('batch_sampler')
    settings = {key: value for key, value in loader.items() if key not in ('batch_sampler', 'drop_last')}
    drop_last = loader.get('drop_last', False) or (batches or {}).get('drop_last', False)
    return ConfigDict(settings, dataset=dict(type='SeededDataset', dataset=loader.dataset),
                      batch_sampler=dict(type='ContinuingBatchSampler', batches=batches, drop_last=drop_last, begin=done))


@LOOPS.register_module()
class ContinuingEpochLoop(EpochBasedTrainLoop):
    """Training by epochs.

    `batches_done` counts the batches of the present epoch that are trained, the one at hand included.
    """

    batches_done = 0

    @property
    def ends_epoch(self) -> bool:
        """Whether the iteration at hand is the epoch's last."""
        return self.batches_done == len(self.dataloader)

    def begin_at(self, done: int, total: int) -> None:
        """Goes on within the present epoch.

        Args:
            done: batches of it that are trained.
            total: batches that it had then; with another number, as with other processes, the same share is passed over.
        """
        batches = round(done / total * len(self.dataloader)) if total else 0
        self._epoch, self.batches_done = (self._epoch + 1, 0) if batches == len(self.dataloader) else (self._epoch, batches)
        if self.batches_done:
            self.dataloader.batch_sampler.begin_at(self.batches_done)

    def run_epoch(self) -> None:
        self._begin = self.batches_done
        super().run_epoch()
        self.batches_done = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        self.batches_done = idx + self._begin + 1
        seed_forward(self.runner.seed, self._iter)
        super().run_iter(idx + self._begin, data_batch)


@LOOPS.register_module()
class ContinuingIterLoop(IterBasedTrainLoop):
    """Training by iterations; the data loader begins where the training does."""

    ends_epoch = False
    batches_done = 0

    def run(self) -> None:
        if self._iter:
            self.dataloader_iterator = _BegunIterator(self.dataloader_iterator, self._iter)
        super().run()

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        seed_forward(self.runner.seed, self._iter)
        super().run_iter(data_batch)


class _BegunIterator:
    """Batches of a data loader that begins where the training does; MMEngine asks for those before once more."""

    def __init__(self, batches: Iterator, done: int):
        self._batches = batches
        self._done = done

    def __iter__(self) -> '_BegunIterator':
        return self

    def skip_iter(self, count: int) -> None:
        """OneDL's MMEngine passes so many over at once, where the other asks for each."""
        self._done -= count

    def __next__(self) -> Sequence[dict] | None:
        if self._done:
            self._done -= 1
            return None
        return next(self._batches)

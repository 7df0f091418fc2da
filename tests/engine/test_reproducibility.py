"""The order and the random numbers of samples follow from their place in the training alone."""

import itertools
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ralamala_mm.engine import reproducibility as sampling
from ralamala_mm.engine.reproducibility import ContinuingBatchSampler, SeededDataset, SeededIndex, continuing_loader, seed_forward


@DATASETS.register_module(force=True)
class Images(Dataset):
    """Upright and lying images, by turns of three; a sample is its index and random numbers from all generators."""

    def __init__(self, length: int = 23):
        self.length = length
        self.pipeline = 'first'

    def __len__(self) -> int:
        return self.length

    def get_data_info(self, index: int) -> dict:
        return dict(width=30, height=20 if index % 3 else 40)

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(1).item()


def batches_of(sampler_type: type, begin: int = 0, count: int = 12, **options) -> list[list[int]]:
    """`count` batches of 4 from a place on, over the ends of epochs as MMEngine's loop goes over them."""
    batches = ContinuingBatchSampler(sampler_type(Images(), seed=1), 4, begin=begin, **options)

    def endless() -> Iterator[list[int]]:
        for epoch in range(count + 1):
            batches.sampler.set_epoch(epoch)
            yield from batches

    return [list(batch) for batch, _ in zip(endless(), range(count), strict=False)]


ASPECT = dict(type='mmdet.AspectRatioBatchSampler')


@pytest.mark.parametrize('sampler_type', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('options', [{}, dict(batches=ASPECT), dict(drop_last=True), dict(batches=ASPECT, drop_last=True)],
                         ids=['plain', 'by aspect', 'dropping', 'by aspect and dropping'])
@pytest.mark.parametrize('begin', [1, 5, 6, 7])
def test_it_begins_anywhere(sampler_type: type, options: dict, begin: int):
    import mmdet.datasets  # noqa: F401

    whole = batches_of(sampler_type, **options)
    rest = batches_of(sampler_type, begin, len(whole) - begin, **options)
    assert len(rest) == len(whole) - begin > 0
    assert rest == whole[begin:]
    assert [[index.seed for index in batch] for batch in rest] == [[index.seed for index in batch] for batch in whole[begin:]]


@pytest.mark.parametrize('drop_last', [False, True])
def test_as_many_batches_as_it_says(drop_last: bool):
    """MMDetection's sampler by aspect gives fewer when it drops the last, on some processes: the others would wait for ever."""
    import mmdet.datasets  # noqa: F401

    for length in range(4, 30):
        sampler = DefaultSampler(Images(length), seed=length)
        batches = ContinuingBatchSampler(sampler, 4, batches=dict(ASPECT, drop_last=drop_last), drop_last=drop_last)
        seen = list(batches)
        assert len(seen) == len(batches) == (length // 4 if drop_last else -(-length // 4))
        assert len(set(itertools.chain(*seen))) == sum(map(len, seen))


def test_seeds_differ_everywhere_and_not_by_process(monkeypatch: pytest.MonkeyPatch):
    """Two processes with 2 samples a batch draw the random numbers of one with 4: the same samples come out."""
    def seeds(rank: int, world_size: int, batch_size: int) -> dict[int, int]:
        monkeypatch.setattr(sampling, 'get_dist_info', lambda: (rank, world_size))
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world_size))
        batches = ContinuingBatchSampler(DefaultSampler(Images(24), seed=5), batch_size)
        return {int(index): index.seed for batch in batches for index in batch}

    alone = seeds(0, 1, 4)
    assert len(set(alone.values())) == 24
    assert {**seeds(0, 2, 2), **seeds(1, 2, 2)} == alone


def test_an_index_survives_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(7, 123)))
    assert (index, index.seed, type(index)) == (7, 123, SeededIndex)


def test_a_data_set_is_what_it_was_otherwise():
    dataset = SeededDataset(dict(type='Images', length=9))
    assert len(dataset) == 9
    assert dataset.get_data_info(1)['width'] == 30
    assert dataset[SeededIndex(3, 11)] == dataset[SeededIndex(3, 11)] != dataset[SeededIndex(3, 12)]
    assert dataset[SeededIndex(3, 11)][0] == 3
    dataset.pipeline = 'second'  # as hooks do that switch augmentation off
    assert dataset.inner.pipeline == 'second'
    with pytest.raises(AttributeError):
        _ = dataset.nothing
    assert len(pickle.loads(pickle.dumps(dataset))) == 9


def test_through_mmengine_s_builder():
    loader = ConfigDict(dataset=dict(type='Images'), sampler=dict(type='DefaultSampler', shuffle=True), batch_size=4,
                        num_workers=0, drop_last=True, collate_fn=dict(type='default_collate'))
    built = [Runner.build_dataloader(continuing_loader(loader), seed=1) for _ in range(2)]
    first, second = [list(loader) for loader in built]
    assert len(first) == len(built[0]) == 5
    for one, other in zip(first, second, strict=True):
        for numbers, same in zip(one, other, strict=True):
            assert torch.equal(numbers, same)


def test_forward_passes_have_their_own_random_numbers(monkeypatch: pytest.MonkeyPatch):
    def draw(seed: int, iteration: int, rank: int = 0) -> tuple:
        monkeypatch.setattr(sampling, 'get_dist_info', lambda: (rank, 2))
        seed_forward(seed, iteration)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(1, 5) == draw(1, 5)
    assert len({draw(1, 5), draw(1, 6), draw(2, 5), draw(1, 5, rank=1)}) == 4

"""MMEngine's training loops that go on from where a checkpoint was saved, in the middle of an epoch too."""

from collections.abc import Iterator, Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from .sampling import seed_forward


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

"""Walks over the data sets of a config, through wrappers such as RepeatDataset and ConcatDataset."""

from collections.abc import Callable, Iterator, Sequence

from mmengine.config import Config, ConfigDict

MODES = ('train', 'val', 'test')


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data set configs inside a data set config and its wrappers."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for item in inner:
        yield from leaf_datasets(item)


def datasets_of(config: Config, modes: Sequence[str] = MODES) -> Iterator[tuple[str, ConfigDict]]:
    """(mode, data set config) for every data set that the data loaders of `modes` read."""
    for mode in modes:
        loader = config.get(f'{mode}_dataloader')
        for dataset in leaf_datasets(loader.dataset) if loader else ():
            yield mode, dataset


def replace_transforms(config: Config, replace: Callable[[ConfigDict], None]) -> None:
    """Applies `replace` in place to every transform of every data set's pipeline."""
    for _, dataset in datasets_of(config):
        for transform in dataset.get('pipeline') or ():
            replace(transform)

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


def transforms_of(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Every transform of a data set's pipeline, those within others such as TestTimeAug too."""

    def inner(transforms) -> Iterator[ConfigDict]:
        for transform in transforms or ():
            if isinstance(transform, dict):
                yield transform
                yield from inner(transform.get('transforms'))
            elif isinstance(transform, list | tuple):
                yield from inner(transform)

    return inner(dataset.get('pipeline'))


def replace_transforms(config: Config, replace: Callable[[ConfigDict], object]) -> None:
    """Applies `replace` in place to every transform of every data set's pipeline."""
    for _, dataset in datasets_of(config):
        for transform in transforms_of(dataset):
            replace(transform)

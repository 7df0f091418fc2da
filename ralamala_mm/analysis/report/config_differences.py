"""What a run's config changes of its base, and what the configs of two runs have apart."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

from ralamala_mm.datasets import use_checked_loading
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

# What a Runner reads. Other names at the top of a config are its own variables, whose use appears below these.
_READ = ('model', 'train_', 'val_', 'test_', 'tta_', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'custom_hooks',
         'env_cfg', 'randomness', 'load_from', 'auto_scale_lr', 'log_processor', 'default_scope', 'non_finite',
         'skip_bad_images', 'strategy')
_UNREAD = ('train_pipeline', 'val_pipeline', 'test_pipeline', 'tta_pipeline')
_MISSING = '—'
AT_THE_START = 'when it was started'  # options of the command line, and what train.py settles
_LONGEST = 160  # letters of a value that are shown
Flat = dict[str, str]  # 'model.backbone.arch' → how its value reads


@dataclass
class Difference:
    """Settings that differ in the same way."""

    names: list[str]
    values: list[str]  # of the base and the run, or of each run
    source: str = ''  # who set it


def flatten(config: Config) -> Flat:
    """Every value that a Runner reads, under its name with dots."""
    flat = {}
    settings = config.to_dict()
    if settings.pop('resume', False):  # the checkpoint that it continued from is no setting
        settings.pop('load_from', None)
    for name, value in settings.items():
        if name.startswith(_READ) and name not in _UNREAD:
            flat.update(_leaves(name, value))
    return flat


def _leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if _is_nested(value) else None
    if not items:
        yield name, _short(value)
        return
    for key, inner in items:
        if key != '_scope_':
            yield from _leaves(f'{name}.{key}', inner)


def _is_nested(value: object) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value)


def _short(value: object) -> str:
    if isinstance(value, tuple):  # MMEngine writes some of a config's tuples as lists
        value = list(value)
    text = repr(value)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]} …'


def differences(flats: Sequence[Flat]) -> list[Difference]:
    """What is not the same in all of them; what is called alike and differs in the same way is reported together."""
    return [Difference(names, list(values)) for (values, _), names in _changed(flats).items()]


def _changed(flats: Sequence[Flat]) -> dict[tuple[tuple[str, ...], str], list[str]]:
    """(values, last part of the name) → names."""
    grouped: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for name in dict.fromkeys(name for flat in flats for name in flat):
        values = tuple(flat.get(name, _MISSING) for flat in flats)
        if len({_MISSING if value == 'None' else value for value in values}) > 1:  # None is what is not set, nearly always
            grouped.setdefault((values, name.rpartition('.')[2]), []).append(name)
    return grouped


def find_config(name: str) -> Path | None:
    """The config file of this name in ./configs, or in the one beside the package."""
    folders = [Path('configs'), Path(__file__).parents[3] / 'configs']
    return next((path for folder in folders for path in sorted(folder.rglob(name))), None)


def differences_from_base(config: Config, path: Path) -> list[Difference]:
    """What a run's config changes of the bases of its file, and whether the file or somebody later did.

    Args:
        config: of the run, as it was dumped.
        path: the config file that the run was started with, or one that it is compared with.

    Raises:
        UserError: the file cannot be read.
    """
    file = load_config(str(path))
    bases = _load_bases(path)
    run, own, base = (flatten(_comparable(one)) for one in (config, file, bases or file))
    found = {path.name: [], AT_THE_START: []}
    for (values, _), names in _changed([base, run]).items():
        by_source = {path.name: [name for name in names if bases and own.get(name, _MISSING) == values[1]]}
        by_source[AT_THE_START] = [name for name in names if name not in by_source[path.name]]
        for source, of_source in by_source.items():
            if of_source:
                found[source].append(Difference(of_source, list(values), source))
    return [*found[AT_THE_START], *found[path.name]]


def _comparable(config: Config) -> Config:
    """As train.py prepares it, so that what it always does is no difference."""
    config = Config(config.to_dict())
    use_checked_loading(config)
    return config


def _load_bases(path: Path) -> Config | None:
    """The files that a config names as `_base_`, merged; None if there are none."""
    names = next((node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)
                  and getattr(node.targets[0], 'id', '') == '_base_'), None)
    try:
        names = ast.literal_eval(names) if names is not None else []
    except ValueError:  # computed; the file itself is then what is compared with
        return None
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        return None
    bases = [name if '::' in name else str((path.parent / name).resolve()) for name in names]
    with TemporaryDirectory() as folder:
        joined = Path(folder, path.name)
        joined.write_text(f'_base_ = {bases!r}\n')
        try:
            return load_config(str(joined))
        except UserError as error:
            raise UserError(f'the bases of {path} cannot be read: {error.sentence}') from error

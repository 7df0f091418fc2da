"""What is wrong with a config's data, before one trains on it: annotations as a whole, then every file."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ralamala_mm.errors import UserError
from ralamala_mm.files import write_in_one_move

from .checked import CHECKED, IMAGES
from .classes import config_classes, dataset_class
from .diagnosis import explain_dataset_error, names_problem
from .own.coco import smallest_trained, wants_masks
from .own.coco_check import category_names, check_split
from .own.coco_files import CocoSplit
from .own.report import ERROR, Problem, Report, some
from .scanning import Fault, WorkerKilledError, scan
from .walking import datasets_of, transforms_of

_NOTED = 20  # notes that are printed


@dataclass
class DataReport:
    """What was found; `complete` is False if something kept the rest from being looked at, which `notes` then tell."""

    config: str
    images: Counter = field(default_factory=Counter)  # by split
    faults: list[Fault] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # split, text
    complete: bool = True
    notes_are_printed: bool = False  # by the look at a folder

    @property
    def bad_files(self) -> int:
        return len({fault.file for fault in self.faults})

    def add_problems(self, problems: Sequence[Problem], file: str, is_mended: bool) -> None:
        """Takes over what the look at a whole split has found.

        Args:
            problems: of one split or several.
            file: the annotation file, or the folder.
            is_mended: whether what can be mended was; else what the libraries would stop at, or count wrongly, is a fault.
        """
        for problem in problems:
            text = problem.told(is_mended)
            if problem.files and problem.level == ERROR:
                kind = problem.text.partition(':')[0]
                self.faults += [Fault(problem.split, bad, kind, text) for bad in problem.files]
            elif problem.level == ERROR or (problem.needed and not is_mended):
                self.faults.append(Fault(problem.split, file, 'annotations', text))
            else:
                self.notes.append((problem.split, text))

    def write(self, path: Path) -> None:
        """Writes it as JSON, in one move."""
        content = dict(config=self.config, complete=self.complete, images=dict(self.images), bad_files=self.bad_files,
                       faults=[asdict(fault) for fault in self.faults],
                       notes=[dict(split=split, text=text) for split, text in self.notes])
        try:
            write_in_one_move(path, lambda unfinished: unfinished.write_text(json.dumps(content, indent=1)))
        except OSError as error:
            raise UserError(f'the report cannot be written to {path} ({error.strerror}): --out names another file') from error

    def __str__(self) -> str:
        lines = [f'Data of {self.config}']
        for split, count in self.images.items():
            kinds: dict[str, list[str]] = defaultdict(list)
            for fault in self.faults:
                if fault.split == split:
                    kinds[fault.kind].append(fault.text)
            faults = sum(map(len, kinds.values()))
            lines.append(f'  {split}: {count} images looked at, {faults or "no"} fault{"" if faults == 1 else "s"}')
            lines += [f'    {kind}, {len(texts)}: {some(texts, 3)}' for kind, texts in sorted(kinds.items())]
        others = {(fault.split, fault.text): None for fault in self.faults if fault.split not in self.images}
        lines += [f'  {split}: {text}' for split, text in others]
        if not self.notes_are_printed:
            lines += [f'  note   {split}: {text}' for split, text in self.notes[:_NOTED]]
        if not self.complete:
            lines.append('  not everything was looked at')
        return '\n'.join(lines).encode('utf-8', 'backslashreplace').decode()


def check_config_data(config: Config, splits: Sequence[str], workers: int, own: Report | None) -> DataReport:
    """Looks at all that a config's data loaders would read.

    Args:
        config: after `use_checked_loading`.
        splits: of 'train', 'val', 'test'; those that the config lacks are passed over, and what was looked at as another.
        workers: processes.
        own: what the look at a folder given by `--data` has found.
    """
    report = DataReport(config.filename or 'the config')
    if own:
        report.notes_are_printed = True
        report.add_problems(own.problems, own.root, is_mended=True)
        if own.errors:
            report.complete = False
            report.notes.append(('all', 'the files themselves were not opened: mend what is marked ERROR first'))
            return report
    seen = []
    for split, dataset in datasets_of(config, splits):
        content = {key: value for key, value in dataset.items() if key not in ('pipeline', 'test_mode', 'filter_cfg')}
        if content in seen:
            continue
        seen.append(content)
        try:
            if not own:
                _check_annotations(config, split, dataset, report)
            _check_files(config, split, dataset, workers, report)
        except WorkerKilledError as error:
            files = error.args[0]
            report.complete = False
            text = (f'a worker was killed, as the system does when memory runs out, while at {some(files, 8)}: fewer --workers '
                    'need less')
            report.faults += [Fault(split, file, 'worker killed', text) for file in files]
            break
    return report


def _check_annotations(config: Config, split: str, dataset: ConfigDict, report: DataReport) -> None:
    """COCO's annotations as a whole; other formats have none, or none that is known here."""
    if config.get('default_scope') != 'mmdet' or not _is_coco(config, dataset):
        return
    root = Path(dataset.get('data_root') or '')
    path = root / dataset.ann_file
    coco = CocoSplit(split, path, root, named_image_dir=root / (dataset.get('data_prefix') or {}).get('img', ''))
    if not path.is_file():
        return
    try:
        checked = check_split(coco, wants_masks(config), split != 'train', smallest_trained(config), opens_images=False)
    except UserError as error:
        report.faults.append(Fault(split, str(path), 'annotations', str(error)))
        return
    report.add_problems(checked.problems, str(path), is_mended=False)
    classes, names = config_classes(config), category_names(coco.content)
    in_file, in_config = [name for name in names if name in classes], [name for name in classes if name in names]
    if in_file != in_config:
        text = (f'the categories of {path} come in another order than the config\'s classes, and MMDetection numbers labels by '
                f'theirs: {some(in_file, 4)} and {some(in_config, 4)}; --data DIR mends it')
        report.faults.append(Fault(split, str(path), 'annotations', text))
    elif lacking := [name for name in classes if name not in names]:
        report.notes.append((split, f'classes of the config that {path} does not have: {some(lacking, 6)}'))


def _is_coco(config: Config, dataset: ConfigDict) -> bool:
    names = [base.__name__ for base in dataset_class(config, dataset).__mro__]
    return 'CocoDataset' in names and bool(dataset.get('ann_file'))


def _check_files(config: Config, split: str, dataset: ConfigDict, workers: int, report: DataReport) -> None:
    built = _build(config, dataset, split, report)
    if built is None:
        return
    report.images[split] += len(built)
    if not _is_coco(config, dataset) and (problem := names_problem(built)):  # of COCO's, it is told with the annotations
        report.faults.append(Fault(split, str(built.ann_file), 'names', f'{built.ann_file} has {problem}'))
    scan(split, built, _readers(dataset), workers, report.faults.append)


def _readers(dataset: ConfigDict) -> list[dict]:
    """The readers of the data set's pipeline, thorough, and one for images if it has none of ours."""
    readers = [{key: value for key, value in transform.items() if key != 'bad_files'}
               for transform in transforms_of(dataset) if transform.get('type') in CHECKED]
    if not any(reader['type'] == IMAGES for reader in readers):
        readers.insert(0, dict(type=IMAGES))
    return [dict(reader, thorough=True) if reader['type'] == IMAGES else reader for reader in readers]


def _build(config: Config, dataset: ConfigDict, split: str, report: DataReport) -> BaseDataset | None:
    """The data set without a pipeline; None, and a fault, if its annotations do not allow it.

    Raises:
        UserError: it is no data set whose samples can be looked at.
    """
    scope = config.get('default_scope') or 'mmengine'
    if not issubclass(dataset_class(config, dataset), BaseDataset):
        raise UserError(f'data sets of type {dataset.type} cannot be looked at: they are no BaseDataset of MMEngine')
    try:
        with DATASETS.switch_scope_and_registry(scope) as registry:
            built = registry.build(dict(dataset, pipeline=[], lazy_init=False))
    except Exception as error:  # of annotations in any format; a fault to report, like those of files
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        try:
            explain_dataset_error(dataset, error)
        except UserError as explained:
            text = explained.sentence
        path = str(Path(dataset.get('data_root') or '', dataset.get('ann_file') or ''))
        if not any(fault.file == path for fault in report.faults):
            report.faults.append(Fault(split, path, 'annotations', text))
        report.complete = False
        return None
    return built

"""What is wrong with a config's data, before one trains on it: annotations as a whole, then every file, in parallel."""

import itertools
import json
import multiprocessing
import os
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS

from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .coco import CocoSplit
from .coco_checks import check_split
from .config import CHECKED, IMAGES, config_classes, dataset_class, datasets_of, transforms_of
from .contents import Contents
from .diagnosis import explain_dataset_error, names_problem
from .images import FileUserError
from .mask_contents import CountedMask, counted_contents
from .progress import Progress
from .report import ERROR, Problem, Report, some
from .use_coco import smallest_trained, wants_masks

_TASK = 8  # samples that a worker is given at a time
_WAITING = 3  # tasks per worker that are handed out ahead
_IDLE = -1
_NOTED = 20  # notes that are printed


@dataclass(frozen=True)
class Fault:
    """Why a file of a split cannot be used."""

    split: str
    file: str
    kind: str
    text: str
    image: str = ''  # the sample's, where the file is its mask


class WorkerKilledError(Exception):
    """A worker process was ended from outside; the argument lists the files that the workers were at."""


class Worker:
    """What each worker process holds: the data set, its readers, and where it tells which sample it is at."""

    def __init__(self, split: str, dataset: BaseDataset, transforms: list[dict], current, numbers):
        self.split = split
        self.dataset = dataset
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of settings that are deprecated, from each worker
            self.readers = [TRANSFORMS.build(transform) for transform in transforms]
        self.current = current
        with numbers.get_lock():
            self.number = numbers.value
            numbers.value += 1
        cv2.setNumThreads(0)

    def check(self, start: int, stop: int) -> tuple[list[Fault], list[CountedMask]]:
        faults, self.counted = [], []
        for i in range(start, stop):
            self.current[self.number] = i
            faults += self.check_sample(self.dataset.get_data_info(i))
        self.current[self.number] = _IDLE
        return faults, self.counted

    def check_sample(self, sample: dict) -> Iterator[Fault]:
        """The faults of a sample: that of its image does not hide that of its mask."""
        if sample.get('height') and sample.get('width'):
            sample['ori_shape'] = sample['height'], sample['width']
        for reader in self.readers:
            is_of_mask = type(reader).__name__ == 'LoadCheckedMask'
            file = sample.get('seg_map_path' if is_of_mask else 'img_path')
            if not file:
                continue
            try:
                reader(sample)
            except FileUserError as error:
                kind, text = error.kind, str(error)
            except Exception as error:  # a fault of any other kind is one, too, and the others are to be found all the same
                kind, text = 'unexpected', ' '.join(f'{type(error).__name__}: {error}'.split())
            else:
                if is_of_mask and reader.classes is not None:
                    self.counted.append(CountedMask.of(sample, reader.classes))
                continue
            yield Fault(self.split, str(file), kind, text, str(sample.get('img_path') or '') if is_of_mask else '')


_worker: Worker | None = None  # of this process


def _begin(*arguments) -> None:
    # A broken pool ends its workers by SIGTERM and waits for them: a handler that they inherited must not keep them alive.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    global _worker
    _worker = Worker(*arguments)


def _check(start: int, stop: int) -> tuple[int, list[Fault], list[CountedMask]]:
    return stop - start, *_worker.check(start, stop)


def scan(split: str, dataset: BaseDataset, transforms: list[dict], workers: int,
         found: Callable[[Fault], None]) -> list[CountedMask]:
    """Checks all samples of a data set.

    Args:
        split: its name.
        dataset: built, without a pipeline; it is not copied to the workers, which are forked.
        transforms: configs of the readers that samples go through.
        workers: processes.
        found: receives the faults.

    Returns:
        What the masks hold that could be read, in any order.

    Raises:
        WorkerKilledError: a worker was ended from outside, as the system does when memory runs out.
    """
    context = multiprocessing.get_context('fork')
    current, numbers = context.RawArray('q', [_IDLE] * workers), context.Value('i', 0)
    tasks = ((start, min(start + _TASK, len(dataset))) for start in range(0, len(dataset), _TASK))
    progress = Progress(f'checking {split}', len(dataset))
    counted: list[CountedMask] = []
    pool = ProcessPoolExecutor(workers, context, _begin, (split, dataset, transforms, current, numbers))
    try:
        pending: set[Future] = set()
        while True:
            pending |= {pool.submit(_check, *task) for task in itertools.islice(tasks, _WAITING * workers - len(pending))}
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                count, faults, masks = future.result()
                counted += masks
                progress.advance(count)
                for fault in faults:
                    found(fault)
    except BrokenProcessPool as error:
        at = [dataset.get_data_info(i) for i in current if i != _IDLE]
        raise WorkerKilledError([str(sample.get('img_path') or sample.get('seg_map_path')) for sample in at]) from error
    else:
        pool.shutdown()  # waited for, or Python's exit may find its pipes closed and print frames
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        progress.end()
    return counted


def check_worker_count(workers: int) -> None:
    """Whether so many processes can be started.

    Raises:
        UserError: there would be none.
    """
    if workers < 1:
        raise UserError(f'--workers {workers}: at least one is needed')


@dataclass
class DataReport:
    """What was found; `complete` is False if something kept the rest from being inspected, which `notes` then tell."""

    config: str
    images: dict[str, int] = field(default_factory=Counter)  # by split
    faults: list[Fault] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # split, text
    problems: list[tuple[Problem, bool]] = field(default_factory=list)  # of which faults and notes tell; whether corrected
    contents: list[Contents] = field(default_factory=list)
    complete: bool = True
    notes_are_printed: bool = False  # by the look at a folder
    reaches_outside: bool = False  # whether files were read that lie elsewhere than in the folders that the config names
    read_from: str = ''  # says where an earlier inspection's result was read

    @property
    def bad_files(self) -> int:
        return len({fault.file for fault in self.faults})

    def add_problems(self, problems: Sequence[Problem], file: str, is_corrected: bool) -> None:
        """Takes over what the look at a whole split has found.

        Args:
            problems: of one split or several.
            file: the annotation file, or the folder.
            is_corrected: whether what can be corrected was; else what the libraries would stop at, or count wrongly, is a fault.
        """
        self.problems += [(problem, is_corrected) for problem in problems]
        for problem in problems:
            text = problem.with_remedy(is_corrected)
            if problem.files and problem.level == ERROR:
                kind = problem.text.partition(':')[0]
                self.faults += [Fault(problem.split, bad, kind, text) for bad in problem.files]
            elif problem.level == ERROR or (problem.needed and not is_corrected):
                self.faults.append(Fault(problem.split, file, 'annotations', text))
            else:
                self.notes.append((problem.split, text))

    def write(self, path: Path) -> None:
        """Writes it as JSON, atomically."""
        content = dict(config=self.config, complete=self.complete, images=dict(self.images), bad_files=self.bad_files,
                       faults=[dict(split=one.split, file=one.file, kind=one.kind, text=one.text) for one in self.faults],
                       notes=[dict(split=split, text=text) for split, text in self.notes])
        try:
            atomic_write(path, lambda unfinished: unfinished.write_text(json.dumps(content, indent=1)))
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
            lines.append(f'  {split}: {count} images inspected, {faults or "no"} fault{"" if faults == 1 else "s"}')
            lines += [f'    {kind}, {len(texts)}: {some(texts, 3)}' for kind, texts in sorted(kinds.items())]
        others = {(fault.split, fault.text): None for fault in self.faults if fault.split not in self.images}
        lines += [f'  {split}: {text}' for split, text in others]
        if not self.notes_are_printed:
            lines += [f'  note   {split}: {text}' for split, text in self.notes[:_NOTED]]
        if not self.complete:
            lines.append('  not everything was inspected')
        if self.read_from:
            lines.append(f'  {self.read_from}')
        return '\n'.join(lines).encode('utf-8', 'backslashreplace').decode()


def check_config_data(config: Config, splits: Sequence[str], workers: int, own: Report | None,
                      folders: Sequence[str] | None = None) -> DataReport:
    """Looks at all that a config's data loaders would read.

    Args:
        config: after `use_checked_loading`.
        splits: of 'train', 'val', 'test'; those that the config lacks are passed over, and what was inspected as another.
        workers: processes.
        own: what the look at a folder given by `--data` has found.
        folders: in which all files are expected, beside the work directory; by default those that the data sets name.
    """
    expected = [*folders, config.work_dir] if folders else data_folders(config, splits)
    report = DataReport(config.filename or 'the config')
    if own:
        report.reaches_outside = own.reaches_outside
        report.notes_are_printed = True
        report.contents = own.contents
        report.add_problems(own.problems, own.root, is_corrected=True)
        if own.errors:
            report.complete = False
            report.notes.append(('all', 'the files themselves were not opened: fix what is marked ERROR first'))
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
            counted = _check_files(config, split, dataset, workers, report, expected)
            if counted and not own:
                report.contents.append(counted_contents(config, dataset, split, counted))
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
    report.add_problems(checked.problems, str(path), is_corrected=False)
    report.contents.append(checked.contents)
    classes, names = config_classes(config), coco.category_names
    in_file, in_config = [name for name in names if name in classes], [name for name in classes if name in names]
    if in_file != in_config:
        text = (f'the categories of {path} come in another order than the config\'s classes, and MMDetection numbers labels by '
                f'theirs: {some(in_file, 4)} and {some(in_config, 4)}; --data DIR corrects it')
        report.faults.append(Fault(split, str(path), 'annotations', text))
    elif lacking := [name for name in classes if name not in names]:
        report.notes.append((split, f'classes of the config that {path} does not have: {some(lacking, 6)}'))


def _is_coco(config: Config, dataset: ConfigDict) -> bool:
    names = [base.__name__ for base in dataset_class(config, dataset).__mro__]
    return 'CocoDataset' in names and bool(dataset.get('ann_file'))


def _check_files(config: Config, split: str, dataset: ConfigDict, workers: int, report: DataReport,
                 folders: Sequence[str]) -> list[CountedMask]:
    built = _build(config, dataset, split, report)
    if built is None:
        return []
    report.images[split] += len(built)
    if not _is_coco(config, dataset) and (problem := names_problem(built)):  # of COCO's, it is told with the annotations
        report.faults.append(Fault(split, str(built.ann_file), 'names', f'{built.ann_file} has {problem}'))
    report.reaches_outside |= _reaches_outside(built, folders)
    return scan(split, built, _readers(dataset), workers, report.faults.append)


def data_folders(config: Config, splits: Sequence[str]) -> list[str]:
    """The folders and files that a config's data sets name."""
    named = []
    for _, dataset in datasets_of(config, splits):
        root = dataset.get('data_root') or ''
        parts = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
        named += [root, *(os.path.join(root, part) for part in parts if part)]
    return [path for path in dict.fromkeys(named) if path]


def _reaches_outside(dataset: BaseDataset, folders: Sequence[str]) -> bool:
    """Whether a sample has files elsewhere than in some folders."""
    within = tuple(os.path.abspath(folder) + os.sep for folder in folders)
    samples = map(dataset.get_data_info, range(len(dataset)))
    return any(not os.path.abspath(path).startswith(within)
               for sample in samples for path in (sample.get('img_path'), sample.get('seg_map_path')) if path)


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
        UserError: it is no data set whose samples can be inspected.
    """
    scope = config.get('default_scope') or 'mmengine'
    if not issubclass(dataset_class(config, dataset), BaseDataset):
        raise UserError(f'data sets of type {dataset.type} cannot be inspected: they are no BaseDataset of MMEngine')
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

"""What a training run left behind: configs, metrics over time, checkpoints."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mmengine.config import Config

from ralamala_mm.analysis.curves import read_entries
from ralamala_mm.datasets.config import is_segmentation
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

# By the last part of a name: before it stands whatever prefix the config gives the evaluator.
CHARTS = {
    'box AP': ('bbox_mAP', 'bbox_AP', 'bbox_mAP_50', 'bbox_AP50', 'bbox_mAP_75', 'bbox_AP75'),
    'mask AP': ('segm_mAP', 'segm_AP', 'segm_mAP_50', 'segm_AP50', 'segm_mAP_75', 'segm_AP75'),
    'AP': ('mAP', 'AP50', 'AP75'),
    'mIoU and accuracy': ('mIoU', 'mAcc', 'aAcc'),
    'panoptic quality': ('PQ', 'SQ', 'RQ'),
}
_SHARES = re.compile(r'(\w+_)?m?A[PR](\d+|[a-z])?([@_].+)?|.+_precision|mMR|JI')  # MMDetection's, of 1
_PERCENT = re.compile(r'[mc]?IoU|[ma]Acc|mDice|mFscore|mPrecision|mRecall|[PSR]Q(_th|_st)?')  # MMSegmentation's and panoptic ones
_LOWER_IS_BETTER = ('mMR',)


def last_part(metric: str) -> str:
    """'bbox_mAP' of 'coco/bbox_mAP'."""
    return metric.rpartition('/')[2]


def short_names(metrics: Iterable[str]) -> dict[str, str]:
    """Each metric's last part, or its whole name where that is not enough to tell it from another."""
    metrics = list(dict.fromkeys(metrics))
    parts = [last_part(metric) for metric in metrics]
    return {metric: part if parts.count(part) == 1 else metric for metric, part in zip(metrics, parts, strict=True)}


def to_percent(metric: str) -> float | None:
    """What makes percent of a metric's values; None where their unit is not known."""
    if _PERCENT.fullmatch(last_part(metric)):
        return 1.0
    return 100.0 if _SHARES.fullmatch(last_part(metric)) else None


def best_point(metric: str, points: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """The best of (iteration, value) pairs, the first of equal ones; None where it is not known which way is better."""
    if to_percent(metric) is None:
        return None
    return (min if last_part(metric) in _LOWER_IS_BETTER else max)(points, key=lambda point: point[1])


Series = dict[str, list[tuple[int, float]]]  # name → (iteration, value) pairs

_NO_METRICS = {'data_time', 'time', 'step', 'iter', 'epoch', 'memory'}
_TIME = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', re.MULTILINE)
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')
_ENVIRONMENT = re.compile(r'^ {4}(\w[^:\n]*): (.+)$', re.MULTILINE)
_SHOWN = ('Python', 'PyTorch', 'TorchVision', 'MMEngine', 'CUDA available', 'CUDA_HOME', 'NVCC', 'OpenCV', 'seed', 'GPU number',
          'Distributed launcher')


@dataclass
class Session:
    """One start of a training, up to its end, its kill, or the next start."""

    name: str
    started_from: int  # iterations that were done before
    training: list[dict]  # what was logged every few iterations
    validation: list[dict]  # what was logged after each validation, with the iteration under 'at'
    environment: dict[str, str]
    seconds: float  # between the log's first and last line


@dataclass
class Run:
    """A training, however often it was resumed."""

    folder: Path
    config: Config
    config_name: str
    sessions: list[Session] = field(default_factory=list)
    name: str = ''  # in the report

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor."""
        return is_segmentation(self.config)

    @property
    def training(self) -> Series:
        """Losses, learning rate, times and memory over iterations."""
        return _series([(entry['iter'], entry) for session in self.sessions for entry in session.training])

    @property
    def metrics(self) -> Series:
        """What validation found, over iterations; without values that COCO has no objects for (-1)."""
        found = _series([(entry['at'], entry) for session in self.sessions for entry in session.validation])
        kept = {name: [(at, value) for at, value in points if value != -1] for name, points in found.items()
                if name not in _NO_METRICS and name != 'at'}
        return {name: points for name, points in kept.items() if points}

    @property
    def iterations(self) -> int:
        """How far the training came, as far as it was logged."""
        return max((entry['iter'] for session in self.sessions for entry in session.training), default=0)

    @property
    def facts(self) -> dict[str, str]:
        """What was run, on what, for how long, as a reader would ask."""
        training = self.training
        facts = dict(config=self.config_name, model=describe_model(self.config), iterations=f'{self.iterations:,}')
        if 'epoch' in training and 'max_epochs' in (self.config.get('train_cfg') or {}):
            facts['epochs'] = f'{training["epoch"][-1][1]:g} of {self.config.train_cfg.max_epochs}'
        facts['batch'] = describe_batch(self)
        facts['time'] = _duration(sum(session.seconds for session in self.sessions))
        if seconds := sorted(value for _, value in training.get('time', [])):
            facts['seconds per iteration'] = f'{seconds[len(seconds) // 2]:.3f} (median)'
        memory = [value for _, value in training.get('memory', [])]
        facts['memory'] = f'{max(memory) / 1024:.1f} GiB of a GPU at most' if memory else 'recorded for GPUs only'
        facts['started'] = '\n'.join(f'{_date(session.name)}, from iteration {session.started_from:,}'
                                     for session in self.sessions) or 'never'
        return facts

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware, of the last session's log."""
        recorded = next((session.environment for session in reversed(self.sessions) if session.environment), {})
        return {name: value.partition(' (main')[0] for name, value in recorded.items()
                if name in _SHOWN or re.match(r'GPU \d', name)}


def read_run(folder: Path) -> Run:
    """Reads a work directory.

    Raises:
        UserError: there is none, or it holds no training.
    """
    if not folder.is_dir():
        raise UserError(f'work directory {folder} does not exist')
    sessions: list[Session] = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        session = _read_session(path)
        if session.training:
            _join(sessions, session)
    # An evaluation leaves its config, with overrides of its own, in the same places; what was trained is in the training's.
    trained = [folder / session.name / 'vis_data' / 'config.py' for session in reversed(sessions)]
    named = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    dumped = [path for path in (*trained, *named) if path.is_file()]
    if not dumped:
        raise UserError(f'{folder} is no work directory of a training: it holds no config (*.py), which train.py writes there')
    config = load_config(str(dumped[0]))
    if not isinstance(config.get('model'), dict):
        raise UserError(f'{folder} is no work directory of a training: its config {dumped[0]} has no model')
    return Run(folder, config, named[0].name if named else 'unknown', sessions, folder.resolve().name)


def name_apart(runs: list[Run]) -> None:
    """Gives runs whose folders have the same name their whole paths as names."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)


def describe_model(config: Config) -> str:
    """'MaskRCNN, RAVLT t'."""
    backbone = config.model.get('backbone') or {}
    size = backbone.get('arch')
    words = [str(config.model.get('type')), str(backbone.get('type')) + (f' {size}' if isinstance(size, str) else '')]
    if config.model.get('decode_head') and not isinstance(config.model.decode_head, list):
        words.insert(1, str(config.model.decode_head.get('type')))
    return ', '.join(word.split('.')[-1] for word in words)


def describe_batch(run: Run) -> str:
    """'2 images × 8 processes'; with accumulated gradients '× 4 iterations'."""
    processes = run.environment.get('GPU number', '1')
    accumulated = (run.config.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    text = f'{(run.config.get("train_dataloader") or {}).get("batch_size")} images'
    text += f' × {processes} processes' if processes != '1' else ''
    return text + (f' × {accumulated} iterations an update' if accumulated > 1 else '')


def _duration(seconds: float) -> str:
    """'2 h 5 min 10 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f'{hours} h ' if hours else '') + (f'{minutes} min ' if hours or minutes else '') + f'{seconds} s'


def _date(name: str) -> str:
    """The time in a session's name, as MMEngine writes it, for reading."""
    try:
        return f'{datetime.strptime(name, "%Y%m%d_%H%M%S"):%Y-%m-%d %H:%M}'
    except ValueError:
        return name


def _read_session(folder: Path) -> Session:
    training, validation = [], []
    for entry in read_entries(folder / 'vis_data' / 'scalars.json'):
        if 'iter' in entry and 'lr' in entry:
            training.append(entry)
        else:  # it counts epochs, or iterations; it belongs to the training iteration before it
            validation.append(dict(entry, at=training[-1]['iter'] if training else None))
    log = '\n'.join(path.read_text(errors='replace') for path in sorted(folder.glob('*.log')))
    resumed = _RESUMED.findall(log)
    first = training[0]['iter'] if training else 0
    started_from = int(resumed[0]) if resumed else (0 if log else first - 1)
    for entry in validation:
        entry['at'] = started_from if entry['at'] is None else entry['at']
    return Session(folder.name, started_from, training, validation, _environment(log), _seconds(log))


def _environment(log: str) -> dict[str, str]:
    block = log.partition('System environment:')[2].partition('\n' + '-' * 60)[0]
    return {name: value for name, value in _ENVIRONMENT.findall(block) if 'compiling' not in name}


def _seconds(log: str) -> float:
    times = [datetime.strptime(text, '%Y/%m/%d %H:%M:%S') for text in _TIME.findall(log)]
    return (times[-1] - times[0]).total_seconds() if times else 0.0


def _join(sessions: list[Session], later: Session) -> None:
    """Adds a session; what earlier ones logged beyond its start was done again, or belongs to another training."""
    for session in sessions:
        session.training = [entry for entry in session.training if entry['iter'] <= later.started_from]
        session.validation = [entry for entry in session.validation if entry['at'] <= later.started_from]
    sessions[:] = [session for session in sessions if session.training]
    sessions.append(later)


def _series(entries: list[tuple[int, dict]]) -> Series:
    series: Series = {}
    for at, entry in entries:
        for name, value in entry.items():
            if isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append((at, value))
    return series

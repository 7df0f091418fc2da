"""The course of a training run as a chart: losses and validation AP or mIoU over iterations."""

import json
from pathlib import Path

from ralamala_mm.errors import UserError

Series = dict[str, list[tuple[int, float]]]  # name → (step, value) pairs


def read_scalars(work_dir: Path) -> Series:
    """Everything that the newest run in `work_dir` logged.

    Raises:
        UserError: there is no run.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise UserError(f'{work_dir} holds no training run (no */vis_data/scalars.json)')
    series: Series = {}
    step = 0
    for entry in read_entries(files[-1]):
        # A validation entry counts epochs; it belongs to the training iteration before it.
        step = entry.get('iter', step)
        for name, value in entry.items():
            if isinstance(value, int | float):
                series.setdefault(name, []).append((step, value))
    return series


def read_entries(path: Path) -> list[dict]:
    """The complete lines of a scalars file; a training that was killed may leave half of one."""
    entries = []
    for line in path.read_text(errors='replace').splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def is_validation_metric(name: str) -> bool:
    """Whether a logged name is a metric of the whole validation set in percent or as a share."""
    return (name.startswith('coco/') and name.endswith('_mAP')) or name in ('mIoU', 'mAcc', 'aAcc')


def draw_curves(series: Series, path: Path, title: str) -> None:
    """Writes a chart with the losses on the left and the validation metrics on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout='constrained')
    losses, metrics = figure.subplots(1, 2)
    for name, points in series.items():
        if 'loss' in name:
            losses.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == 'loss' else 1)
        elif is_validation_metric(name):
            metrics.plot(*zip(*points, strict=True), label=name.removeprefix('coco/'), marker='o')
    losses.set(title='training loss', xlabel='iteration', ylim=(0, None))
    metrics.set(title='validation', xlabel='iteration', ylim=(0, None))
    for axes in (losses, metrics):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

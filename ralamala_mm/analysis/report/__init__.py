"""One HTML page about a run, or about several beside each other."""

from pathlib import Path

from ralamala_mm.apis.predictor import find_device
from ralamala_mm.errors import UserError

from .detection import Detections, evaluate_detections
from .page import write_page
from .predicting import predict_run
from .runs import Run, name_apart, read_run
from .segmentation import Segmentations, evaluate_segmentations

__all__ = ['Run', 'make_report', 'read_run']


def make_report(folders: list[Path], out: Path, images: int, base: Path | None = None, data: str | None = None,
                device: str = 'auto') -> list[str]:
    """Writes the report of one work directory, or of several beside each other.

    Args:
        folders: the work directories.
        out: the page, a `.html` file.
        images: how many validation images to predict at most; 0 for none.
        base: the config file that the run's config is compared with; by default the one of its name in `configs/`.
        data: folder of the validation data, if it is not where the config says.
        device: to predict on, as torch names it; 'auto' takes a GPU if there is one.

    Returns:
        What the page says is missing.

    Raises:
        UserError: a folder is no work directory, nothing can be said about it, or there is no such device.
    """
    find_device(device)
    runs = [read_run(folder) for folder in folders]
    name_apart(runs)
    notices, results = [], []
    for run in runs:
        result, notice = _evaluate(run, images, data, device)
        results.append(result)
        notices += notice
        if result is None and not run.sessions:
            raise UserError(f'{run.folder} holds neither logs of a training (*/vis_data/scalars.json) nor predictions'
                            + (f': {notice[0].partition(": ")[2]}' if images else ': leave --no-predictions out'))
    return write_page(out, runs, results, notices, base)


def _evaluate(run: Run, images: int, data: str | None, device: str) -> tuple[Detections | Segmentations | None, list[str]]:
    """The numbers of a run's predictions, or None, and what is missing of them and why."""
    if not images:
        return None, [f'{run.name}: no predictions were asked for, so that only curves are shown.']
    try:
        predictions = predict_run(run, images, data, device)
        result = (evaluate_segmentations if run.segments else evaluate_detections)(predictions)
    except UserError as error:
        return None, [f'{run.name}: nothing could be predicted, so that only curves are shown: {error.sentence}']
    notices = []
    if bare := predictions.without_masks:
        notices.append(f'{run.name}: no numbers of masks, as annotations of {len(bare)} of {len(predictions.images)} images '
                       f'have no segmentation ({", ".join(bare[:3])}{", …" if len(bare) > 3 else ""}).')
    return result, notices

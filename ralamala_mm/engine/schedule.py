"""Whether a learning rate's schedule, made for COCO or ADE20K, fits the length of a training."""

from collections.abc import Iterator, Sequence


def schedule_notes(schedulers: Sequence[dict] | dict | None, max_iters: int) -> Iterator[str]:
    """A sentence for each scheduler, counted in iterations, that goes on for long after the training ends.

    Args:
        schedulers: the config's `param_scheduler`.
        max_iters: iterations of the training.
    """
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list | tuple) else []):
        key = next((key for key in ('end', 'T_max') if scheduler.get(key)), None)
        end = scheduler[key] if key else 0
        if scheduler.get('by_epoch', True) or end <= max_iters:
            continue
        does = 'still warms up' if scheduler.get('type') == 'LinearLR' else 'still falls'
        yield (f'the training takes {max_iters} iterations, and the learning rate {does} until iteration {end}: '
               f'--cfg-options param_scheduler.{i}.{key}=… fits it')

"""A training or an evaluation from its command line: the changes to its config, in the order in which they need each other."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from mmengine.config import Config

from ralamala_mm.checkpoints import read_checkpoint, recorded_classes
from ralamala_mm.datasets import check_paths, use_checked_loading, use_data, use_skipping
from ralamala_mm.errors import UserError

from .checkpointing import claim_folders, use_resume
from .config import (
    check_output,
    drop_validation,
    prepare_config,
    resolve_pretrained,
    use_amp,
    use_auto_scale_lr,
    use_segmentation_output,
    use_test_time_augmentation,
    use_visualization,
)
from .distributed import from_rank_0, launched_rank, start_processes
from .work_dir import use_recorders


def prepare_data(config: Config, modes: Sequence[str], data: str | None = None, checkpoint: str | None = None,
                 crowds: str | None = None) -> str | None:
    """Gives a config its data: the folder of `--data`, paths that exist, readers that check what they read.

    Args:
        config: changed in place.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        data: the folder, None for what the config names. Rank 0 alone inspects it, and prints the report.
        checkpoint: of the weights that are tested, whose labels have their own order: the folder may list the same classes in
            another.
        crowds: what instances marked `iscrowd` are, see `datasets.coco_checks.check_split`.

    Returns:
        The report, None without a folder or for other data sets.

    Raises:
        UserError: the data, or a file that the config names, cannot be used.
    """
    report = None
    if crowds and not data:
        raise UserError('--iscrowd is about the folder of --data: give both')
    if data:
        def inspect() -> tuple[str | None, tuple]:
            classes = recorded_classes(read_checkpoint(checkpoint, tensors=False)) if checkpoint else None
            # A strategy such as FSDP's makes the process group later: then each rank finds the same.
            found = use_data(config, data, modes, launched_rank(config.get('launcher', 'none')) == 0, classes, crowds)
            return found and str(found), config.__getstate__()

        report, state = from_rank_0(inspect)
        config.__setstate__(state)
    check_paths(config, modes)
    use_checked_loading(config)
    return report


class Training(NamedTuple):
    """What train.py runs."""

    config: Config
    notes: list[str]  # for the log
    claims: list[TextIO]  # on the folders that it writes to, to be closed at its end


def prepare_training(args: argparse.Namespace) -> Training:
    """The config of train.py's options.

    Raises:
        UserError: an option, the config, the data or the weights to start from do not allow it.
    """
    config = prepare_config(args)
    if args.amp:
        use_amp(config, args.amp)
    if args.auto_scale_lr:
        use_auto_scale_lr(config)
    if args.no_validate:
        drop_validation(config)
    is_first = launched_rank(args.launcher) == 0
    claims = claim_folders(config) if is_first else []
    start_processes(config)
    resumed = use_resume(config, args.resume)
    report = prepare_data(config, ['train', 'val'], args.data, crowds=args.iscrowd)
    use_skipping(config, args.skip_bad_images, starts_list=is_first)
    use_recorders(config, args.log_to)
    notes = [report, *resumed, resolve_pretrained(config)]
    return Training(config, [note for note in notes if note], claims)


def prepare_evaluation(args: argparse.Namespace) -> Config:
    """The config of test.py's options.

    Raises:
        UserError: an option, the config, the data or the checkpoint do not allow it.
    """
    config = prepare_config(args)
    config.load_from = args.checkpoint
    check_output(config, args.out)
    start_processes(config)
    prepare_data(config, ['test'], args.data, args.checkpoint, args.iscrowd)
    use_visualization(config, args.show, args.show_dir, args.wait_time)
    use_segmentation_output(config, args.out)
    if args.tta:
        use_test_time_augmentation(config)
        use_checked_loading(config)  # for the pipeline that it brings
    return config

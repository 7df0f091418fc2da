"""A training or an evaluation from its command line: the changes to its config, in the order in which they need each other."""

import argparse
from typing import NamedTuple, TextIO

from mmengine.config import Config

from ralamala_mm.checkpoints import read_checkpoint, recorded_classes
from ralamala_mm.datasets import prepare_data, use_skipping

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
from .distributed import launched_rank, start_processes
from .work_dir import use_recorders


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
    report = prepare_data(config, ['train', 'val'], args.data, show=is_first)
    use_skipping(config, args.skip_bad_images, starts_list=is_first)
    use_recorders(config, args.log_to)
    notes = [report, *resumed, resolve_pretrained(config)]
    return Training(config, [str(note) for note in notes if note], claims)


def prepare_evaluation(args: argparse.Namespace) -> Config:
    """The config of test.py's options.

    Raises:
        UserError: an option, the config, the data or the checkpoint do not allow it.
    """
    config = prepare_config(args)
    config.load_from = args.checkpoint
    check_output(config, args.out)
    # The labels in the weights have their own order; a folder may list the same classes in another.
    classes = recorded_classes(read_checkpoint(args.checkpoint)) if args.data else None
    prepare_data(config, ['test'], args.data, show=launched_rank(args.launcher) == 0, weights_classes=classes)
    use_visualization(config, args.show, args.show_dir, args.wait_time)
    use_segmentation_output(config, args.out)
    if args.tta:
        use_test_time_augmentation(config)
    start_processes(config)
    return config

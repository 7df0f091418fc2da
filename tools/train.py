"""Trains a detector or segmentor from its config: python tools/train.py configs/maskrcnn_ravlt_s.py"""

import argparse

from ralamala_mm.datasets import check_paths, use_checked_loading, use_data, use_skipping
from ralamala_mm.engine import (
    RECORDERS,
    Console,
    add_amp_options,
    build_runner,
    claim_folders,
    drop_validation,
    launched_rank,
    prepare_config,
    run,
    runner_parser,
    settle_pretrained,
    start_processes,
    use_amp,
    use_auto_scale_lr,
    use_recorders,
    use_resume,
)


def main(args: argparse.Namespace) -> None:
    config = prepare_config(args)
    if args.amp:
        use_amp(config, args.amp)
    if args.auto_scale_lr:
        use_auto_scale_lr(config)
    if args.no_validate:
        drop_validation(config)
    first = launched_rank(args.launcher) == 0
    claims = claim_folders(config) if first else []
    start_processes(config)
    resumed = use_resume(config, args.resume)
    report = use_data(config, args.data, ['train', 'val'], show=first) if args.data else None
    check_paths(config, ('train', 'val'))
    use_checked_loading(config)
    use_skipping(config, args.skip_bad_images, starts_list=first)
    use_recorders(config, args.log_to)
    notes = [*resumed, settle_pretrained(config)]
    runner = build_runner(config, Console.default())
    for note in filter(None, [report, *notes]):  # after MMEngine's many lines, and in the log file
        runner.logger.info(str(note))
    runner.train()
    for claim in claims:
        claim.close()


if __name__ == '__main__':
    parser = runner_parser('Train a detector or a segmentor.')
    add_amp_options(parser)
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the total batch')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='PATH',
                        help='go on from PATH, or from the newest checkpoint in the work directory')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    parser.add_argument('--log-to', nargs='+', choices=RECORDERS, default=[], help='record curves there too')
    parser.add_argument('--skip-bad-images', type=int, metavar='N',
                        help='leave out up to N images that cannot be used, listed in WORK_DIR/skipped_images.txt')
    run(parser, main)

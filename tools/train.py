"""Trains a detector or segmentor from its config: python tools/train.py configs/maskrcnn_ravlt_s.py"""

import argparse

from ralamala_mm.engine import RECORDERS, Console, add_amp_options, build_runner, prepare_training, run, runner_parser


def main(args: argparse.Namespace) -> None:
    config, notes, claims = prepare_training(args)
    runner = build_runner(config, Console.default())
    for note in notes:  # after MMEngine's many lines, and in the log file
        runner.logger.info(note)
    runner.train()
    for claim in claims:
        claim.close()


if __name__ == '__main__':
    parser = runner_parser('Train a detector or a segmentor.')
    add_amp_options(parser)
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the total batch')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='PATH',
                        help='continue from PATH, or from the newest checkpoint in the work directory')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    parser.add_argument('--log-to', nargs='+', choices=RECORDERS, default=[], help='record curves there too')
    parser.add_argument('--skip-bad-images', type=int, metavar='N',
                        help='leave out up to N images that cannot be used, listed in WORK_DIR/skipped_images.txt')
    run(parser, main)

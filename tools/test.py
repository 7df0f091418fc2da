"""Evaluates a checkpoint: python tools/test.py configs/maskrcnn_ravlt_s.py work_dirs/maskrcnn_ravlt_s/epoch_12.pth"""

import argparse

from ralamala_mm.engine import Console, build_runner, prepare_evaluation, run, runner_parser, use_detection_output


def main(args: argparse.Namespace) -> None:
    config = prepare_evaluation(args)
    runner = build_runner(config, Console.default(), evaluates=True)
    use_detection_output(config, runner, args.out)
    runner.test()


if __name__ == '__main__':
    parser = runner_parser('Evaluate a detector or a segmentor.')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='PATH',
                        help='detection: .pkl file for all predictions; segmentation: folder for the predicted masks')
    parser.add_argument('--show', action='store_true', help='show each prediction in a window')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='draw predictions into DIR (detection: within WORK_DIR/TIMESTAMP, unless absolute)')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that each window stays')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    run(parser, main)

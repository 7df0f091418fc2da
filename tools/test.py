"""Evaluates a checkpoint: python tools/test.py configs/maskrcnn_ravlt_s.py work_dirs/maskrcnn_ravlt_s/epoch_12.pth"""

import argparse

from ralamala_mm.apis.drawing import use_visualization
from ralamala_mm.checkpoints import read_checkpoint, recorded_classes
from ralamala_mm.datasets import check_paths, use_checked_loading, use_data
from ralamala_mm.engine import (
    Console,
    build_runner,
    check_output,
    launched_rank,
    prepare_config,
    run,
    runner_parser,
    start_processes,
    use_detection_output,
    use_segmentation_output,
    use_test_time_augmentation,
)


def main(args: argparse.Namespace) -> None:
    config = prepare_config(args)
    config.load_from = args.checkpoint
    check_output(config, args.out)
    if args.data:
        # The labels in the weights have their own order; a folder may list the same classes in another.
        classes = recorded_classes(read_checkpoint(args.checkpoint))
        use_data(config, args.data, ['test'], show=launched_rank(args.launcher) == 0, weights_classes=classes)
    check_paths(config, ('test',))
    use_visualization(config, args.show, args.show_dir, args.wait_time)
    use_segmentation_output(config, args.out)
    if args.tta:
        use_test_time_augmentation(config)
    use_checked_loading(config)
    start_processes(config)
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

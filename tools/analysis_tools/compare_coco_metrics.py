"""Seconds that COCO's metrics take by MMDetection's metric and by ours, on made-up predictions:  compare_coco_metrics.py"""

import argparse

from ralamala_mm.engine import run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    from ralamala_mm.analysis.coco_evaluation import compare_metrics

    if min(args.images, args.classes, args.detections) < 1:
        raise UserError('--images, --classes and --detections must be 1 or more')
    print('| metric | seconds | time / CocoMetric | values |\n|-|-|-|-|')
    first = None
    for name, seconds, values in compare_metrics(args.images, args.classes, args.detections):
        first = first or (seconds, values)
        told = 'the same' if values == first[1] else values
        print(f'| {name} | {seconds:.1f} | {seconds / first[0]:.2f} | {told} |', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--images', type=int, default=5000, help='images; COCO val2017 has 5000')
    parser.add_argument('--classes', type=int, default=80, help='object classes')
    parser.add_argument('--detections', type=int, default=100, help='predictions in each image')
    run(parser, main)

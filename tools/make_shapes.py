"""Makes the built-in data set of shapes: python tools/make_shapes.py"""

import argparse
from pathlib import Path

from ralamala_mm.datasets.shapes import make_shapes

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description='Make the built-in data set of shapes.', formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('root', nargs='?', type=Path, default=Path('data/shapes'), help='folder to write to')
    parser.add_argument('--train', type=int, default=1000, help='training images')
    parser.add_argument('--val', type=int, default=100, help='validation images')
    parser.add_argument('--size', type=int, default=128, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0, help='another seed gives other images')
    args = parser.parse_args()
    made = make_shapes(args.root, args.train, args.val, args.size, args.seed)
    print(f'{"Made" if made else "Found"} {args.train} training and {args.val} validation images in {args.root}')

"""Parameters and multiply-adds of a config's model, no data set needed:  get_flops.py configs/maskrcnn_ravlt_s.py"""

import argparse

from ralamala_mm.analysis.flops import as_text, count_model, default_shape
from ralamala_mm.engine import add_cfg_options, build_model, load_config, run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    if args.shape and len(args.shape) > 2:
        raise UserError('--shape takes height and width, or one number for both')
    config = load_config(args.config, args.cfg_options)
    height_width = args.shape * 2 if args.shape and len(args.shape) == 1 else args.shape
    shape = tuple(height_width) if height_width else default_shape(config)
    print(as_text(count_model(build_model(config), shape), shape))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--shape', type=int, nargs='+', metavar='PIXELS',
                        help='height and width, or one number for both (800 1280 for detection, 512 2048 for segmentation)')
    add_cfg_options(parser)
    run(parser, main)

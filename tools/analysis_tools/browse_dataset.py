"""What a config makes of its data: python tools/analysis_tools/browse_dataset.py configs/maskrcnn_ravlt_s.py --out-dir browsed"""

import argparse
from pathlib import Path

from ralamala_mm.analysis.browsing import count_data, draw_sheets, write_statistics
from ralamala_mm.analysis.samples import build_dataset
from ralamala_mm.apis.drawing import palette_of
from ralamala_mm.datasets.config import MODES
from ralamala_mm.engine import add_cfg_options, add_data_options, prepare_config, prepare_data, run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    for option, value, least in (('number', args.number, 0), ('versions', args.versions, 1), ('count', args.count, 1)):
        if value < least:
            raise UserError(f'--{option} {value}: give {least} or more')
    args.work_dir = str(args.out_dir)  # where --data puts annotations that it corrects
    config = prepare_config(args)
    prepare_data(config, [args.part], args.data, crowds=args.iscrowd)
    dataset = build_dataset(config, args.part)
    title = f'{Path(args.config).stem}, {args.part}'
    statistics = count_data(config, dataset, args.count)
    paths = write_statistics(statistics, palette_of(dataset.metainfo), title, args.out_dir)
    if args.number:
        paths += draw_sheets(config, dataset, args.number, args.versions, args.out_dir)
    print('\n'.join(['Wrote', *(f'  {path}' for path in paths)]))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description="Draw what a config's pipeline makes of its data, and histograms of it.")
    parser.add_argument('config', help='config file')
    add_data_options(parser)
    parser.add_argument('--part', choices=MODES, default='train', help='split; train by default')
    parser.add_argument('--number', type=int, default=10, metavar='N', help='images to draw, spread over the data; default 10')
    parser.add_argument('--versions', type=int, default=4, metavar='N', help='how often each is augmented; default 4')
    parser.add_argument('--count', type=int, default=5000, metavar='N', help='images to count at most; default 5000')
    parser.add_argument('--out-dir', type=Path, required=True, metavar='DIR', help='where images and numbers go')
    add_cfg_options(parser)
    parser.set_defaults(launcher='none')
    run(parser, main)

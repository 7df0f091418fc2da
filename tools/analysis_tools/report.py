"""A run, or several beside each other, as one HTML page: python tools/analysis_tools/report.py work_dirs/demo"""

import argparse
from pathlib import Path

from ralamala_mm.analysis.report import make_report
from ralamala_mm.engine import add_trust_option, run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    if args.images < 1:
        raise UserError(f'--images {args.images}: give 1 or more, or --no-predictions')
    if args.base and not args.base.is_file():
        raise UserError(f'--base {args.base}: there is no such config file')
    if args.base and args.base.suffix != '.py':
        raise UserError(f'--base {args.base}: give a Python config (*.py), whose `_base_` files can be read')
    out = args.out or args.work_dirs[0] / ('report.html' if len(args.work_dirs) == 1 else 'comparison.html')
    notices = make_report(args.work_dirs, out, 0 if args.no_predictions else args.images, args.base, args.data, args.device)
    for notice in notices:
        print(f'note: {notice}')
    print(f'Open {out} in a browser ({out.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Show a training as one HTML page: curves, numbers per class, errors, images.')
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work directory; several are compared')
    parser.add_argument('--out', type=Path, metavar='FILE', help='the page; WORK_DIR/report.html or comparison.html by default')
    parser.add_argument('--images', type=int, default=300, metavar='N',
                        help='predict N validation images at most, spread over all; default 300')
    parser.add_argument('--no-predictions', action='store_true', help='curves alone')
    parser.add_argument('--data', metavar='DIR', help='folder of the data, if it is not where it was in training')
    parser.add_argument('--base', type=Path, metavar='CONFIG',
                        help='config file that the run is compared with; found by its name by default')
    parser.add_argument('--device', default='auto', help='to predict on: cpu, cuda, cuda:1, …; a GPU if there is one by default')
    add_trust_option(parser)
    run(parser, main)

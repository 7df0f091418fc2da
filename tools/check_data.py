"""Inspects a config's data before training: python tools/check_data.py configs/maskrcnn_ravlt_s.py --data my_images"""

import argparse
import os
from pathlib import Path

from ralamala_mm.analysis.data_report import write_data_page
from ralamala_mm.datasets import check_paths, use_checked_loading
from ralamala_mm.datasets.config import MODES
from ralamala_mm.datasets.user_data import inspect_data
from ralamala_mm.datasets.validation import check_config_data, check_worker_count
from ralamala_mm.engine import add_cfg_options, add_data_options, prepare_config, run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    check_worker_count(args.workers)
    if args.out and Path(args.out).suffix == '.html':
        raise UserError(f'--out {args.out}: give the JSON file; the page is written beside it as .html')
    if args.iscrowd and not args.data:
        raise UserError('--iscrowd is about the folder of --data: give both')
    config = prepare_config(args)
    own = inspect_data(config, args.data, args.splits, crowds=args.iscrowd) if args.data else None
    if own is None or not own.errors:
        check_paths(config, args.splits)
    use_checked_loading(config)
    report = check_config_data(config, args.splits, args.workers, own)
    out = Path(args.out or Path(config.work_dir, 'data_report.json'))
    where = args.data or config.get('data_root') or args.config
    report.write(out)
    write_data_page(out.with_suffix('.html'), report, where)
    print(f'{report}\nOpen {out.with_suffix(".html")} in a browser', flush=True)
    if report.faults:
        count = report.bad_files
        raise UserError(f'{count} file{"s" if count > 1 else ""} of {where} cannot be used, see {out}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Inspect every image, annotation and mask that a config would read.')
    parser.add_argument('config', help='config file')
    add_data_options(parser)
    parser.add_argument('--splits', nargs='+', choices=MODES, default=MODES, help='all by default')
    parser.add_argument('--workers', type=int, metavar='N', default=len(os.sched_getaffinity(0)),
                        help='processes; one per core by default')
    parser.add_argument('--work-dir', help='where the report and corrected annotations go; work_dirs/CONFIG by default')
    parser.add_argument('--out', metavar='FILE', help='the report as JSON, with a page, .html, beside it; '
                                                     'WORK_DIR/data_report.json by default')
    add_cfg_options(parser)
    parser.set_defaults(launcher='none')
    run(parser, main)

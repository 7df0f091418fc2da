"""Inspects a config's data before training: python tools/check_data.py configs/maskrcnn_ravlt_s.py --data my_images"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config
from msgspec import Struct

from ralamala_mm.analysis.data_report import data_page
from ralamala_mm.datasets import check_paths, use_checked_loading
from ralamala_mm.datasets.config import MODES
from ralamala_mm.datasets.inspection_cache import InspectionCache
from ralamala_mm.datasets.user_data import inspect_data
from ralamala_mm.datasets.validation import DataReport, Fault, check_config_data, check_worker_count, data_folders
from ralamala_mm.engine import add_cfg_options, add_data_options, prepare_config, run
from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write


class Checked(Struct):
    """What a check has found, as it is printed and written, and kept for the next one of unchanged data."""

    config: str
    images: dict[str, int]
    faults: list[Fault]
    notes: list[tuple[str, str]]
    complete: bool
    about_folder: str  # what is printed of the folder of --data
    page: str

    def report(self, read_from: str = '') -> DataReport:
        return DataReport(self.config, self.images, self.faults, self.notes, complete=self.complete,
                          notes_are_printed=bool(self.about_folder), read_from=read_from)


def main(args: argparse.Namespace) -> None:
    check_worker_count(args.workers)
    if args.out and Path(args.out).suffix == '.html':
        raise UserError(f'--out {args.out}: give the JSON file; the page is written beside it as .html')
    if args.iscrowd and not args.data:
        raise UserError('--iscrowd is about the folder of --data: give both')
    config = prepare_config(args)
    where = args.data or config.get('data_root') or args.config
    folders = [args.data] if args.data else data_folders(config, args.splits)
    cache = InspectionCache(config, 'files', (config.filename, args.data, list(args.splits), args.iscrowd), folders)
    if found := cache.read(Checked):
        checked, _, read_from = found
        report = checked.report(read_from)
        if checked.about_folder:
            print(checked.about_folder, flush=True)
    else:
        checked, report = check(config, args, where, cache)
    out = Path(args.out or Path(config.work_dir, 'data_report.json'))
    report.write(out)
    page = out.with_suffix('.html')
    try:
        atomic_write(page, lambda file: file.write_text(checked.page, encoding='utf-8'))
    except OSError as error:
        raise UserError(f'the page cannot be written to {page} ({error.strerror}): --out names another file') from error
    print(f'{report}\nOpen {page} in a browser', flush=True)
    if report.faults:
        count = report.bad_files
        raise UserError(f'{count} file{"s" if count > 1 else ""} of {where} cannot be used, see {out}')


def check(config: Config, args: argparse.Namespace, where: str, cache: InspectionCache) -> tuple[Checked, DataReport]:
    """Inspects everything, and keeps the result if it is of all."""
    own = inspect_data(config, args.data, args.splits, crowds=args.iscrowd, anew=True) if args.data else None
    if own is None or not own.errors:
        check_paths(config, args.splits)
    use_checked_loading(config)
    report = check_config_data(config, args.splits, args.workers, own, [args.data] if args.data else None)
    checked = Checked(report.config, dict(report.images), report.faults, report.notes, report.complete, str(own or ''),
                      data_page(report, where))
    if report.complete and not report.reaches_outside:
        cache.write(checked, config)
    return checked, report


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

"""Where the time of training and evaluation goes:  profile_step.py configs/maskrcnn_ravlt_s.py --iterations 5"""

import argparse
import json
import sys
from pathlib import Path

import torch

from ralamala_mm.analysis.speed import machine
from ralamala_mm.analysis.steps import as_summary, as_table, measure_evaluation, measure_training, measure_worker
from ralamala_mm.datasets.config import datasets_of
from ralamala_mm.engine import (
    Console,
    add_amp_options,
    build_runner,
    drop_validation,
    launched_rank,
    prepare_config,
    prepare_data,
    resolve_pretrained,
    run,
    runner_parser,
    start_processes,
    use_amp,
)
from ralamala_mm.errors import UserError

WORKER_IMAGES = 50  # their sizes differ, and random transforms too


def main(args: argparse.Namespace) -> None:
    if args.iterations < 1 or args.val_images < 0:
        raise UserError('--iterations must be 1 or more, --val-images 0 or more')
    config = prepare_config(args)
    if args.amp:
        use_amp(config, args.amp)
    start_processes(config)
    prepare_data(config, ['train', 'val'], args.data)
    resolve_pretrained(config)
    config.default_hooks.checkpoint = None  # this training is no result
    config.train_cfg.val_interval = sys.maxsize  # evaluation is measured apart, after it
    if not args.val_images:
        drop_validation(config)
    for _, dataset in datasets_of(config, ['val']):
        dataset.indices = args.val_images  # the first so many
    runner = build_runner(config, Console.ERRORS)

    training = measure_training(runner, args.iterations)
    loader = config.train_dataloader
    worker = measure_worker(runner.train_dataloader.dataset, WORKER_IMAGES)
    report = dict(config=args.config, machine=machine('cuda' if torch.cuda.is_available() else 'cpu'), iterations=args.iterations,
                  batch_size=loader.batch_size, num_workers=loader.num_workers, training=training, worker=worker)
    if config.get('val_evaluator'):
        report['evaluation'] = measure_evaluation(runner)
    if launched_rank(args.launcher):
        return
    print(f'\nTraining, {loader.batch_size} images an iteration, {loader.num_workers} workers\n{as_table(training, "iteration")}'
          f'\n\n{as_summary(training, worker, loader.batch_size)}\n\nLoading, by one worker\n{as_table(worker, "image")}')
    if 'evaluation' in report:
        print(f'\nEvaluation of {report["evaluation"]["images"]} images\n{as_table(report["evaluation"], "image")}')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
    parser = runner_parser('Show where the time of training and evaluation goes.')
    add_amp_options(parser)
    parser.add_argument('--iterations', type=int, default=10, metavar='N',
                        help='N are timed as they are, then N part by part; default 10')
    parser.add_argument('--val-images', type=int, default=20, metavar='N', help='images to evaluate, 0 for none; default 20')
    parser.add_argument('--json', type=Path, metavar='FILE', help='file for the numbers')
    run(parser, main)

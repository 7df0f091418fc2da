"""Time and peak memory of backbones, training steps and inference, beside a floor that is counted.

benchmark.py backbone configs/maskrcnn_ravlt_s.py mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py
benchmark.py train configs/maskrcnn_ravlt_s.py mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ralamala_mm.analysis.roofline import Rates, as_summary, as_table, measured_rates
from ralamala_mm.analysis.speed import (
    ELEMENT_SIZE,
    Result,
    as_growth_table,
    as_json,
    draw_growth,
    growths,
    in_own_process,
    machine,
    measure_all,
    subject_ops,
)
from ralamala_mm.analysis.speed import as_table as as_speed_table
from ralamala_mm.analysis.workloads import CHOSEN, MODES, NO_BACKEND, Task, is_hybrid, load_subject
from ralamala_mm.engine import add_traceback_option, run
from ralamala_mm.errors import UserError
from ralamala_mm.families import FAMILIES, any_family
from ralamala_mm.ops import BACKENDS

LINEAR_ATTENTIONS = tuple(family.linear_attention for family in FAMILIES.values())
CHART_SUFFIXES = ('.png', '.pdf', '.svg', '.jpg')


def count(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive integer')
    return int(text)


def images(args: argparse.Namespace) -> list[tuple[int, int, int, int]]:
    """The inputs `[B, 3, H, W]` that were asked for."""
    return [(args.batch, 3, *size) for size in ([(size, size) for size in args.sizes] if args.sizes else [args.shape])]


def model_tasks(args: argparse.Namespace, modes: Sequence[str]) -> list[Task]:
    """Every model on every backend of its own, in every mode and size; all configs are looked up before anything is measured."""
    options = dict(device=args.device, dtype=args.dtype, runs=args.runs, compiled=args.compile, with_cp=args.with_cp,
                   channels_last=getattr(args, 'channels_last', False), stage=getattr(args, 'stage', None),
                   fused=getattr(args, 'fuse', False))
    hybrids = {subject: is_hybrid(load_subject(subject)) for subject in args.models}
    if options['stage'] is not None and not all(hybrids.values()):
        raise UserError(f'--stage takes {any_family()} only')
    if args.with_cp and not {'forward+backward', 'train'} & set(modes):
        raise UserError('--with-cp changes nothing without a backward pass: leave it out')
    # The baseline is the released code's way of computing, without any of the options.
    plain = dict(fused=False, compiled=False, with_cp=False)
    ours = [options | dict(backend=backend, channels_last=False) | (plain if backend == 'naive' else {})
            for backend in args.paths]
    theirs = [options | dict(backend=NO_BACKEND, fused=False)]
    ways = {subject: ours if hybrid else theirs for subject, hybrid in hybrids.items()}
    return [Task(subject, mode, shape, **way)
            for mode in modes for shape in images(args) for subject in args.models for way in ways[subject]]


def backbone(args: argparse.Namespace) -> None:
    modes = args.modes or (MODES[:1] if args.fuse else MODES)
    if args.fuse and 'forward+backward' in modes:
        raise UserError('--fuse is for inference: give --modes forward with it')
    report(model_tasks(args, modes), args, in_own_process(measured_rates, args.device, args.dtype))


def train(args: argparse.Namespace) -> None:
    if args.device == 'cpu' and args.dtype != 'float32':
        raise UserError(f'training in {args.dtype} needs a GPU: leave --dtype out on a CPU')
    report(model_tasks(args, ['train']), args)


def infer(args: argparse.Namespace) -> None:
    report(model_tasks(args, ['infer']), args)


def attention(args: argparse.Namespace) -> None:
    if args.head_dim % 4:
        raise UserError(f'--head-dim {args.head_dim} is not a multiple of 4, which the rotary position needs')
    shape = (args.batch, args.heads, args.length, args.head_dim)
    ways = [dict(backend=backend) for backend in args.paths] + [dict(backend='naive', compiled=True)]
    tasks = [Task(kind, mode, shape, device=args.device, dtype=args.dtype, runs=args.runs, **way)
             for kind in args.kinds for mode in MODES for way in ways]
    report(tasks, args, in_own_process(measured_rates, args.device, args.dtype))


def floor(args: argparse.Namespace) -> None:
    if args.rates:
        rates = Rates(args.rates[0] * 1e12, args.rates[1] * 1e12)
    else:
        rates = in_own_process(measured_rates, args.device, args.dtype)
    counted = {}
    for model in args.models:
        counted[model] = ops = subject_ops(model, (args.batch, 3, *args.shape), ELEMENT_SIZE[args.dtype])
        print(f'\n{model}, {args.batch}×3×{args.shape[0]}×{args.shape[1]}, {args.dtype}; {rates.flops / 1e12:.3g} TFLOP/s, '
              f'{rates.bandwidth / 1e9:.4g} GB/s\n\n{as_table(ops)}\n\n{as_summary(ops, rates)}')
    write(args.json, json.dumps(dict(rates=asdict(rates), ops={name: list(map(asdict, ops)) for name, ops in counted.items()})))


def report(tasks: list[Task], args: argparse.Namespace, rates: Rates | None = None) -> None:
    """Measures, prints the tables, writes the files."""
    results = []
    try:
        for result in measure_all(tasks, rates, lambda line: print(line, flush=True)):
            results.append(result)
    finally:  # an error in one row leaves the others
        if results:
            show(results, args, rates)


def show(results: list[Result], args: argparse.Namespace, rates: Rates | None) -> None:
    print(f'\n{as_speed_table(results, args.device, rates)}')
    if growths(results):
        print(f'\n{as_growth_table(results)}')
    write(args.json, as_json(results, args.device, rates))
    if getattr(args, 'picture', None):
        draw_growth(results, args.picture, f'{machine(args.device)["device"]}, {args.dtype}, batch {args.batch}')


def write(path: Path | None, text: str) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')


def main(args: argparse.Namespace) -> None:
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a GPU, and torch sees none here')
    if getattr(args, 'picture', None) and args.picture.suffix not in CHART_SUFFIXES:
        raise UserError(f'--picture {args.picture} is none of {", ".join(CHART_SUFFIXES)}')
    if getattr(args, 'picture', None) and not args.sizes:
        raise UserError('--picture draws time against resolution: give --sizes with it')
    args.call(args)


def add_command(commands, call, text: str) -> argparse.ArgumentParser:
    """A subcommand with the options that all share."""
    parser = commands.add_parser(call.__name__, help=text, description=text)
    parser.set_defaults(call=call)
    parser.add_argument('--batch', type=count, default=1, help='images (%(default)s)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where there is a GPU, cuda by default')
    parser.add_argument('--dtype', choices=list(ELEMENT_SIZE), default='float32',
                        help='float32 by default; of models by autocast')
    parser.add_argument('--json', type=Path, metavar='FILE', help='file for the numbers')
    add_traceback_option(parser)
    return parser


def add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--runs', type=count, default=5, help='counted runs, after those to warm up (%(default)s)')
    parser.add_argument('--paths', nargs='+', choices=[*BACKENDS, CHOSEN], default=['naive', CHOSEN],
                        help=f'of {any_family()}; by default the baseline, naive, and what is chosen when none is forced')


def add_models(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help=help_text)
    parser.add_argument('--shape', type=count, nargs=2, default=[800, 1280], metavar=('HEIGHT', 'WIDTH'),
                        help='pixels (800 1280)')


if __name__ == '__main__':
    configs = 'config file, or mmdet::FOLDER/NAME.py, mmdet::NAME, mmseg::… for one of the libraries'
    with_short_names = f'{configs}; or ravlt_s, mala_t … for a backbone alone'
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(traceback=False)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    of_backbones = add_command(commands, backbone, 'backbones of any configs, forward and forward+backward')
    of_training = add_command(commands, train, 'training steps of any configs on random images: loss, backward, optimizer')
    of_inference = add_command(commands, infer, 'predictions of any configs on random images')
    for command in (of_backbones, of_training, of_inference):
        add_models(command, with_short_names if command is of_backbones else configs)
        add_measuring(command)
        command.add_argument('--sizes', type=count, nargs='+', metavar='PIXELS', help='square images of these sides, not --shape')
        command.add_argument('--picture', type=Path, metavar='FILE', help='time and memory against --sizes, drawn')
        command.add_argument('--compile', action='store_true', help='by torch.compile: takes minutes')
        command.add_argument('--with-cp', action='store_true', help='recompute the activations of backbones')
    for command in (of_backbones, of_inference):
        command.add_argument('--fuse', action='store_true', help=f'fold the batch norms of {any_family()}')
    of_backbones.add_argument('--modes', nargs='+', choices=MODES, help='both by default')
    of_backbones.add_argument('--channels-last', action='store_true', help=f'other backbones; {any_family()} choose themselves')
    of_backbones.add_argument('--stage', type=int, choices=range(4), help=f'only this stage of {any_family()}')
    of_attention = add_command(commands, attention, 'a linear attention on every backend, and compiled, which takes a minute')
    add_measuring(of_attention)
    of_attention.add_argument('--kinds', nargs='+', choices=LINEAR_ATTENTIONS, default=LINEAR_ATTENTIONS, help='all by default')
    of_attention.add_argument('--length', type=count, default=67200, help='tokens (%(default)s)')
    of_attention.add_argument('--head-dim', type=count, default=64, help='channels per head (%(default)s)')
    of_attention.add_argument('--heads', type=count, default=1, help='heads (%(default)s)')
    of_counting = add_command(commands, floor, f'lower bound of {any_family()}: operations, fewest bytes, the time that follows')
    add_models(of_counting, with_short_names)
    of_counting.add_argument('--rates', type=float, nargs=2, metavar=('TFLOP/s', 'TB/s'),
                             help='of a device, in place of measuring the one here')
    run(parser, main)

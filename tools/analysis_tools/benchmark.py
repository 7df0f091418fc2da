"""Time and peak memory of a backbone on each path:  benchmark.py ravlt s --shape 800 1280"""

import argparse
from pathlib import Path

import torch

from ralamala_mm.analysis.speed import as_json, as_table, compare_paths
from ralamala_mm.engine import run
from ralamala_mm.errors import UserError


def main(args: argparse.Namespace) -> None:
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a GPU, and torch sees none here')
    shape = (args.batch, 3, *args.shape)
    results = []
    for task, measurement in compare_paths(args.backbone, args.arch, shape, args.device, args.dtype, args.runs):
        print(f'{task.mode}, {task.path}: {measurement.median:.3f} s, {measurement.peak_memory / 1e9:.2f} GB', flush=True)
        results.append((task, measurement))
    print(as_table(results))
    if args.json:
        args.json.write_text(as_json(results))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('backbone', choices=['ravlt', 'mala'])
    parser.add_argument('arch', choices=list('tsbl'))
    parser.add_argument('--shape', type=int, nargs=2, default=[800, 1280], metavar=('HEIGHT', 'WIDTH'), help='pixels')
    parser.add_argument('--batch', type=int, default=1, help='images')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'float16', 'bfloat16'], default='float32', help='by autocast')
    parser.add_argument('--runs', type=int, default=5, help='counted runs, after one to warm up')
    parser.add_argument('--json', type=Path, help='file for the numbers')
    parser.add_argument('--traceback', action='store_true', help='show the frames of an error')
    run(parser, main)

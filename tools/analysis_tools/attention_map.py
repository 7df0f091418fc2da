"""Where a pixel looks, and the ranks of linear attention, as images and numbers.

attention_map.py configs/maskrcnn_ravlt_s.py work_dirs/maskrcnn_ravlt_s/epoch_12.pth photo.jpg --point 320 240 --out attention
"""

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from ralamala_mm.analysis.attention import (
    THRESHOLD,
    as_table,
    block_ranks,
    capture,
    draw_attention,
    draw_ranks,
    mean_ranks,
    scores,
    spread_of,
    token_at,
)
from ralamala_mm.backbones.hybrid import HybridVisionTransformer
from ralamala_mm.checkpoints.loading import load_backbone_checkpoint
from ralamala_mm.engine import add_cfg_options, add_trust_option, build_model, load_config, run
from ralamala_mm.errors import UserError
from ralamala_mm.export.images import Normalization, read_image
from ralamala_mm.families import any_family
from ralamala_mm.files import atomic_write, check_folder

LONGEST_SIDE = 1333  # pixels; larger images are made smaller, as in detection


def block_number(text: str) -> tuple[int, int]:
    """'2.1' is the first block of the second stage: (1, 0)."""
    stage, _, block = text.partition('.')
    if not (stage.isdecimal() and block.isdecimal() and int(stage) and int(block)):
        raise argparse.ArgumentTypeError(f'{text} is not STAGE.BLOCK, both from 1')
    return int(stage) - 1, int(block) - 1


def head_number(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text} is not a positive integer')
    return int(text)


def read_shrunken(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """`[H, W, 3]`, RGB, and the file's own height and width."""
    image = read_image(path)
    shape = image.shape[:2]
    if (factor := LONGEST_SIDE / max(shape)) < 1:
        size = [max(1, round(side * factor)) for side in reversed(shape)]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image, shape


def main(args: argparse.Namespace) -> None:
    check_folder(args.out, f'--out {args.out}')
    config = load_config(args.config, args.cfg_options)
    if config.get('model', {}).get('backbone', {}).get('compile'):
        config.model.backbone.compile = False  # compiled blocks do not show what passes through them
    model = build_model(config)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HybridVisionTransformer):
        raise UserError(f'the backbone of {args.config} is not {any_family()}')
    (image, (height, width)), *others = map(read_shrunken, args.images)
    x, y = args.point
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f'--point {x} {y} (column, row) lies outside of {args.images[0]}')
    point = x * image.shape[1] // width, y * image.shape[0] // height
    print(load_backbone_checkpoint(backbone, args.checkpoint))
    built = range(len(backbone.layers))
    stages = [stage for stage in backbone.linear_stages if stage in built] or built
    blocks = args.blocks or [(stage, len(backbone.layers[stage].blocks) - 1) for stage in stages]
    normalize = Normalization(model.data_preprocessor)
    rows, numbers = [], []
    captured = capture(backbone, normalize(as_batch(image)), blocks)
    for inputs in captured:
        grid = tuple(inputs.gate.shape[2:])
        token = token_at(point, inputs.stride, grid[1])
        if args.head and args.head > len(inputs.q):
            raise UserError(f'--head {args.head}: {inputs.name} has {len(inputs.q)}')
        own = inputs.module.attention
        kinds = [own, *(kind for kind in ('softmax_attention', 'linear') if kind != own)]
        chosen = {kind: scores(kind, inputs.q, inputs.k, inputs.rotary, token) for kind in kinds}
        chosen = {kind: weights[args.head - 1] if args.head else weights.mean(dim=0) for kind, weights in chosen.items()}
        rows.append((inputs.name, inputs.stride, {kind: weights.reshape(grid) for kind, weights in chosen.items()}))
        numbers.append(dict(block=inputs.name, grid=grid, token=token, scores={kind: spread_of(w) for kind, w in chosen.items()}))
    linear = [inputs for inputs in captured if inputs.module.attention != 'softmax_attention']
    found = [[block_ranks(inputs, args.threshold)] for inputs in linear]
    for other, _ in others:
        chosen = [(inputs.stage, inputs.block) for inputs in linear]
        for known, inputs in zip(found, capture(backbone, normalize(as_batch(other)), chosen), strict=True):
            known.append(block_ranks(inputs, args.threshold))
    ranks = [(inputs.name, mean_ranks(known)) for inputs, known in zip(linear, found, strict=True)]
    write(args, image, point, rows, ranks, numbers)


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def write(args: argparse.Namespace, image, point: tuple[int, int], rows: list, ranks: list, numbers: list[dict]) -> None:
    draw_attention(image, point, rows, args.out / 'attention.png')
    for entry in numbers:
        for kind, spread in entry['scores'].items():
            print(f'{entry["block"]:20} {kind:18} sum {spread["sum"]:7.3f}  peak {spread["peak"]:7.1f}× the average  '
                  f'least {spread["least"]:6.1f}×  on {spread["tokens"]:.0f} tokens')
    if ranks:
        draw_ranks(ranks, args.out / 'ranks.png', args.threshold)
        print(f'\nMeans over {len(args.images)} image{"s" if len(args.images) > 1 else ""}. {as_table(ranks, args.threshold)}')
    as_numbers = [dict(block=name, ranks={kind: {matrix: asdict(rank) for matrix, rank in found.items()}
                                          for kind, found in by_kind.items()}) for name, by_kind in ranks]
    text = json.dumps(dict(point=args.point, threshold=args.threshold, attention=numbers, ranks=as_numbers), indent=1) + '\n'
    atomic_write(args.out / 'attention.json', lambda path: path.write_text(text))
    print(f'Wrote {args.out / "attention.png"}{", ranks.png" if ranks else ""} and attention.json')


if __name__ == '__main__':
    warnings.filterwarnings('ignore', category=UserWarning)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='path or URL of weights')
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE',
                        help='image; ranks are the means over all that are given, the attention is drawn for the first')
    parser.add_argument('--point', type=int, nargs=2, required=True, metavar=('X', 'Y'), help='pixel: column and row')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for the images and numbers')
    parser.add_argument('--blocks', type=block_number, nargs='+', metavar='STAGE.BLOCK',
                        help='blocks, both counted from 1; by default the last one of each stage with linear attention')
    parser.add_argument('--head', type=head_number, metavar='N', help='one head, from 1; the mean over all by default')
    parser.add_argument('--threshold', type=float, default=THRESHOLD,
                        help='part of the largest singular value from which others count (%(default)s)')
    add_cfg_options(parser)
    add_trust_option(parser)
    run(parser, main)

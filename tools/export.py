"""A model into a file that runs elsewhere, checked against PyTorch.

export.py configs/maskrcnn_ravlt_s.py work_dirs/maskrcnn_ravlt_s/epoch_12.pth --format onnx --out maskrcnn.onnx
export.py configs/maskrcnn_ravlt_s.py RAVLT_S.pth --backbone-only --format pretrained --out ravlt_s
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ralamala_mm.backbones.hybrid import HybridVisionTransformer, use_backend
from ralamala_mm.checkpoints.loading import load_backbone_checkpoint
from ralamala_mm.engine import add_cfg_options, add_trust_option, build_model, load_config, run
from ralamala_mm.errors import UserError
from ralamala_mm.export.formats import FORMATS
from ralamala_mm.families import any_family
from ralamala_mm.files import atomic_write, check_folder
from ralamala_mm.ops import AUTO

FOLDER = 'pretrained'  # what `from_pretrained` reads: weights and arguments, nothing traced


def build(args: argparse.Namespace) -> nn.Module:
    """The config's model with the checkpoint's weights; with `--backbone-only` the backbone's alone."""
    config = load_config(args.config, args.cfg_options)
    if config.get('model', {}).get('backbone', {}).get('compile'):
        config.model.backbone.compile = False  # nothing can be traced through torch.compile
    torch.manual_seed(0)
    if not args.backbone_only:
        from ralamala_mm.apis import load_model

        return load_model(config, args.checkpoint, 'cpu')
    model = build_model(config)
    if not isinstance(getattr(model, 'backbone', None), HybridVisionTransformer):
        raise UserError(f'--backbone-only exports a {any_family()}, and the backbone of {args.config} is not one')
    if args.checkpoint:
        print(load_backbone_checkpoint(model.backbone, args.checkpoint))
    return model


def example_images(args: argparse.Namespace) -> list[Tensor]:
    """The image to trace and check with, in the shape asked for and in another one: `[1, 3, H, W]`, RGB, 0 to 255."""
    height, width = args.shape
    if args.image:
        from ralamala_mm.export.images import read_image

        image = torch.from_numpy(read_image(args.image)).permute(2, 0, 1)[None].float()
    else:
        torch.manual_seed(0)
        image = 255 * nn.functional.interpolate(torch.rand(1, 3, height // 16 + 2, width // 16 + 2), (height, width))
    shapes = [(height, width), (height * 3 // 4 + 1, width * 7 // 8 - 1)]
    return [nn.functional.interpolate(image, shape, mode='bilinear', antialias=True).round().clamp(0, 255) for shape in shapes]


def export_model(model: nn.Module, images: list[Tensor], args: argparse.Namespace) -> None:
    """A detector or segmentor end to end, with its post-processing.

    Raises:
        UserError: it cannot be exported, or finds nothing by which its file could be checked.
    """
    from ralamala_mm.export import image_model
    from ralamala_mm.export.comparison import compare_results, scale_random_weights

    kind = FORMATS[args.format]
    images = [image.to(torch.uint8) for image in images]
    if not args.checkpoint:
        print('No checkpoint: the weights are random, and scaled so that there is something to compare.')
        scale_random_weights(model, lambda: image_model(model)[1](images[0]))
    module, own, batched = image_model(model)
    with use_backend(model, AUTO):
        results = [own(image) for image in images]
    if 'boxes' in module.outputs and not any(len(found['boxes']) for found in results):
        setting = f'model.test_cfg{".rcnn" if hasattr(model, "roi_head") else ""}.score_thr'
        raise UserError(f'the model finds nothing in {args.image or "an image of noise"}, and so its file could not be checked: '
                        f'give --image with an image of its objects, or a lower threshold, --cfg-options {setting}=0.001')
    notes = dict(classes=json.dumps(model.dataset_meta['classes']), config=Path(args.config).name,
                 input='uint8 RGB, any height and width')

    def differences(path: Path):
        session = kind.load(path)
        for image, expected in zip(images, results, strict=True):
            with use_backend(model, 'naive'):
                rounding = compare_results(expected, own(image))
            what = f'{len(expected["boxes"])} detections' if 'boxes' in expected else f'{expected["classes"].numel()} pixels'
            found = dict(zip(module.outputs, session(image), strict=True))
            yield image, what, compare_results(expected, found), rounding

    write_checked(args, lambda path: kind.write(module, images[0], path, module.outputs, batched, notes), differences)
    report_times(args, lambda: own(images[0]), images[0])
    print(f'image: uint8 RGB [{"batch" if batched else 1}, 3, height, width] → {", ".join(module.outputs)}')
    print('In the graph: normalization, padding, post-processing. Not in it: resizing of the image'
          f'{"" if batched else ", and batches"}.')


def export_backbone(model: nn.Module, images: list[Tensor], args: argparse.Namespace) -> None:
    """A model's backbone alone: normalized images to maps."""
    from ralamala_mm.export.comparison import compare_maps, scale_random_weights
    from ralamala_mm.export.images import Normalization

    kind, backbone = FORMATS[args.format], model.backbone
    images = list(map(Normalization(model.data_preprocessor), images))
    if not args.checkpoint:
        print('No checkpoint: the weights are random, and scaled so that there is something to compare.')
        scale_random_weights(backbone, lambda: backbone(images[0]))
    example = torch.cat([images[0]] * 2)  # two, as one would be taken for a size that never changes
    names = [f'stride{stride}' for stride in backbone.out_strides]

    def differences(path: Path):
        program = kind.load(path)
        for image in images:
            with torch.no_grad():
                with use_backend(backbone, AUTO):
                    expected, found = backbone(image), program(image)
                with use_backend(backbone, 'naive'):
                    rounding = compare_maps(expected, backbone(image))
            yield image, f'{len(expected)} maps', compare_maps(expected, tuple(found)), rounding

    write_checked(args, lambda path: kind.write(backbone, example, path, names, True, None), differences)
    report_times(args, lambda: backbone(images[0]), images[0])
    print(f'image: float [batch, 3, height, width], normalized → {", ".join(names)}')


def report_times(args: argparse.Namespace, pytorch: Callable[[], object], image: Tensor) -> None:
    """With `--time`: the file's time beside PyTorch's."""
    from ralamala_mm.export.comparison import times_in_turn

    if args.time:
        program = FORMATS[args.format].load(args.out)
        with torch.no_grad():
            theirs, ours = times_in_turn(pytorch, lambda: program(image), args.time)
        print(f'{"×".join(map(str, image.shape[2:]))}, {torch.get_num_threads()} threads, median of {args.time} runs in turn: '
              f'PyTorch {1e3 * theirs:.0f} ms, the file {1e3 * ours:.0f} ms, {theirs / ours:.2f} times as fast')


def write_checked(args: argparse.Namespace, write: Callable[[Path], None],
                  differences: Callable[[Path], Iterator[tuple]]) -> None:
    """Writes a file atomically, if its results are PyTorch's.

    Raises:
        UserError: they differ by more than rounding.
    """
    from ralamala_mm.export.comparison import faults

    out = args.out

    def write_and_check(path: Path) -> None:
        print(f'Writing {out} …', flush=True)
        named = path.with_name(f'{path.name}{FORMATS[args.format].suffix}')  # torch.export looks at the suffix
        try:
            write(named)
            for image, what, found, rounding in differences(named):
                size = '×'.join(map(str, image.shape[2:]))
                print(f'  {size}, {what}: largest difference from PyTorch: {", ".join(map(str, found))}', flush=True)
                if wrong := faults(found, rounding):
                    raise UserError(f'{out} is not written: at {size} it differs from PyTorch by {", ".join(wrong)}')
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)

    atomic_write(out, write_and_check)
    print(f'Wrote {out}, {out.stat().st_size / 1e6:.1f} MB.')


def check_out(out: Path, is_folder: bool) -> None:
    """Whether a file or folder can be written there, before anything is computed.

    Raises:
        UserError: something else is in the way.
    """
    if out.is_dir() and not is_folder:
        raise UserError(f'--out {out} is a folder: name a file in it')
    check_folder(out if is_folder else out.parent, f'--out {out}')


def main(args: argparse.Namespace) -> None:
    check_out(args.out, is_folder=args.format == FOLDER)
    kind = FORMATS.get(args.format)
    if not args.backbone_only and not (kind and kind.takes_models):
        formats = ' or '.join(name for name, other in FORMATS.items() if other.takes_models)
        raise UserError(f'--format {args.format} is for backbones: give --backbone-only, or --format {formats} for full '
                        'models')
    if kind:
        kind.need()
    if min(args.shape) < 64:
        raise UserError(f'--shape {args.shape[0]} {args.shape[1]} is too small to check with: give at least 64 64')
    images = example_images(args)
    model = build(args)
    if kind is None:
        model.backbone.save_pretrained(args.out)
        weights = '' if args.checkpoint else ', random weights'
        print(f'Wrote {args.out}{weights}: {type(model.backbone).__name__}.from_pretrained({str(args.out)!r}) builds it.')
    else:
        (export_backbone if args.backbone_only else export_model)(model, images, args)


if __name__ == '__main__':
    warnings.filterwarnings('ignore', category=UserWarning)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='path or URL of weights; random ones without it')
    parser.add_argument('--format', choices=[*FORMATS, FOLDER], required=True, help='kind of file')
    parser.add_argument('--out', type=Path, required=True, metavar='PATH', help='file to write; a folder for pretrained')
    parser.add_argument('--backbone-only', action='store_true', help='leave neck and heads out')
    parser.add_argument('--shape', type=int, nargs=2, default=[512, 640], metavar=('HEIGHT', 'WIDTH'),
                        help='size to trace and check with; the file takes any (512 640)')
    parser.add_argument('--image', type=Path, metavar='FILE', help='image to check with; a pattern of noise without it')
    parser.add_argument('--time', type=int, metavar='RUNS', help='time RUNS runs of the file and of PyTorch, in turn')
    add_cfg_options(parser)
    add_trust_option(parser)
    run(parser, main)

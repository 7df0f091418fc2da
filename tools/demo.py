"""The complete workflow on built-in data: make images, train Mask R-CNN with RAVLT-T, evaluate, draw.  make demo"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn
from torch.torch_version import TorchVersion
from torch.utils.data import DataLoader

from ralamala_mm.analysis.curves import draw_curves, read_scalars
from ralamala_mm.apis.drawing import draw_instances, palette_of, read_image, resize, side_by_side, tile
from ralamala_mm.datasets import check_paths, set_data_root
from ralamala_mm.datasets.shapes import make_shapes
from ralamala_mm.engine import Console, build_runner, claim_folders, prepare_config, run, use_resume
from ralamala_mm.engine.checkpointing import pointed_checkpoint

TRAIN_IMAGES, VAL_IMAGES = 1000, 100
ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs' / 'demo' / 'maskrcnn_ravlt_t_shapes.py'
SIDE = 384  # pixels of an image's longer side on a sheet, so that names and scores can be read


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    config = prepare_config(args)
    set_data_root(config, args.data)
    work_dir = Path(config.work_dir)
    data_root = Path(config.data_root)
    claims = claim_folders(config)
    print(f'1/3  Data: {TRAIN_IMAGES} training and {VAL_IMAGES} validation images of shapes in {data_root}', flush=True)
    make_shapes(data_root, TRAIN_IMAGES, VAL_IMAGES)
    check_paths(config, ('train', 'val', 'test'))

    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'the CPU, {threads} thread{"s" * (threads > 1)}'
    print(f'2/3  Training Mask R-CNN with RAVLT-T from scratch on {device}; logs in {work_dir}', flush=True)
    # One pass over all weights instead of eight; on a CPU since PyTorch 2.4.
    config.optim_wrapper.optimizer.fused = torch.cuda.is_available() or TorchVersion(torch.__version__) >= '2.4'
    for note in use_resume(config, args.resume):
        print(f'     {note}', flush=True)
    runner = build_runner(config, Console.QUIET)
    validation = LastValidation()
    runner.register_hook(validation)
    runner.train()
    for claim in claims:
        claim.close()

    print('3/3  Drawing predictions and curves', flush=True)
    metrics = validation.metrics or runner.test()  # there was none where the training that is resumed had ended
    draw_predictions(runner.model, runner.val_loop.dataloader, work_dir / 'predictions.png')
    draw_curves(read_scalars(work_dir), work_dir / 'curves.png', 'Mask R-CNN, RAVLT-T, built-in shapes')
    print(f'''
Validation, COCO metrics by pycocotools
  boxes  {_summary(metrics, 'bbox')}
  masks  {_summary(metrics, 'segm')}
In {work_dir}
  predictions.png   ground truth left, prediction right
  curves.png        losses and AP over the training
  {Path(pointed_checkpoint(work_dir)).name:<17} the weights
Done in {(time.monotonic() - started) / 60:.1f} minutes. For COCO, with its folder in data/coco:
  {sys.executable} tools/train.py configs/maskrcnn_ravlt_s.py --amp --auto-scale-lr''')


class LastValidation(Hook):
    """Keeps the metrics of the newest validation, which at the end of a training is that of the last weights."""

    metrics: dict[str, float] | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.metrics = metrics


def draw_predictions(model: nn.Module, loader: DataLoader, path: Path, count: int = 12, columns: int = 3,
                     score: float = 0.4) -> None:
    """Writes a sheet of the first `count` images, each with ground truth left and prediction right.

    Args:
        model: a detector.
        loader: of validation or test images.
        path: the image file to write.
        count: how many images.
        columns: pairs per row.
        score: predictions below it are not drawn.
    """
    dataset = loader.dataset
    classes, palette = dataset.metainfo['classes'], palette_of(dataset.metainfo)
    model.eval()
    pairs = []
    for i in range(min(count, len(dataset))):
        # A data set in test mode hands the annotations out to the metric only; the drawing needs them too.
        data = loader.collate_fn([dataset[i]])
        with torch.no_grad():
            sample = model.test_step(data)[0].cpu()
        image = read_image(sample.img_path)
        larger = resize(image, SIDE)
        scale = max(larger.shape[:2]) / max(image.shape[:2])
        found = sample.pred_instances[sample.pred_instances.scores >= score]
        pairs.append(side_by_side(*(draw_instances(larger, _scaled(instances, scale), classes, palette)
                                    for instances in (sample.gt_instances, found))))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(tile(pairs, columns, gap=32), cv2.COLOR_RGB2BGR))


def _scaled(instances: InstanceData, factor: float) -> InstanceData:
    """Instances with their boxes in pixels of an enlarged image; masks fit an image of any size."""
    larger = instances.clone()
    larger.bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes) * factor
    return larger


def _summary(metrics: dict[str, float], kind: str) -> str:
    return '   '.join(f'{name} {metrics[f"coco/{kind}_{key}"]:.3f}'
                      for name, key in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75')))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description='Train Mask R-CNN with RAVLT-T on the built-in shapes.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='where logs, weights and drawings go')
    parser.add_argument('--data', default='data/shapes', help='where the images are made')
    parser.add_argument('--resume', action='store_const', const='auto', help='resume from the newest checkpoint there')
    parser.set_defaults(config=str(CONFIG), cfg_options=None, launcher='none')
    run(parser, main)

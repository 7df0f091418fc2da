"""Processor time and peak memory of the inspection of `--data` for a made-up COCO data set of any size.

python docs/benchmarks/inspect_data.py FOLDER --images 118287 --objects 860001
python docs/benchmarks/inspect_data.py FOLDER --second                  # again: what is read of the first one's result
python docs/benchmarks/inspect_data.py FOLDER --source OTHER_CHECKOUT   # the same folder by another version of the code
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import sys
import time
from pathlib import Path

CLASSES = 80
SIZE = 640, 480


def make(root: Path, split: str, images: int, objects: int) -> None:
    """Annotations of polygons, and images that are hard links of one."""
    from PIL import Image

    folder, rng = root / f'{split}2017', random.Random(0)
    folder.mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    for i in range(images):
        if i % 50_000 == 0:  # file systems allow so many links
            first = folder / f'{i:012d}.jpg'
            Image.new('RGB', SIZE, (i // 50_000, 0, 0)).save(first)
        else:
            os.link(first, folder / f'{i:012d}.jpg')
    annotations = []
    for i in range(objects):
        x, y, width, height = (rng.uniform(0, 0.7 * SIZE[0]), rng.uniform(0, 0.7 * SIZE[1]), rng.uniform(8, 0.3 * SIZE[0]),
                               rng.uniform(8, 0.3 * SIZE[1]))
        points = rng.randint(8, 36)
        polygon = [round(value, 2) for k in range(points) for value in (
            x + width / 2 * (1 + math.cos(2 * math.pi * k / points)), y + height / 2 * (1 + math.sin(2 * math.pi * k / points)))]
        annotations.append(dict(id=i + 1, image_id=rng.randrange(images), category_id=rng.randrange(CLASSES) + 1, iscrowd=0,
                                bbox=[round(x, 2), round(y, 2), round(width, 2), round(height, 2)],
                                area=round(math.pi / 4 * width * height, 2), segmentation=[polygon]))
    content = dict(images=[dict(id=i, file_name=f'{i:012d}.jpg', width=SIZE[0], height=SIZE[1]) for i in range(images)],
                   annotations=annotations, categories=[dict(id=i + 1, name=f'class{i}') for i in range(CLASSES)])
    (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where the data set is made, if it is not there')
    parser.add_argument('--images', type=int, default=118_287, help='in training; validation has a 24th')
    parser.add_argument('--objects', type=int, default=860_001, help='in training; validation has a 24th')
    parser.add_argument('--source', type=Path, default=Path(__file__).parents[2], help='checkout of the code to measure')
    parser.add_argument('--second', action='store_true', help='keep the result of the first inspection')
    args = parser.parse_args()
    if not args.folder.exists():
        make(args.folder, 'train', args.images, args.objects)
        make(args.folder, 'val', args.images // 24, args.objects // 24)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # making it takes more memory than what is measured
    folder = str(args.folder.absolute())
    os.chdir(args.source)
    sys.path.insert(0, str(args.source.absolute()))
    from ralamala_mm.datasets import use_data
    from ralamala_mm.engine import load_config

    config = load_config('configs/maskrcnn_ravlt_t.py')
    config.work_dir = str(args.folder.absolute() / 'work')
    if not args.second:
        shutil.rmtree(config.work_dir, ignore_errors=True)
    before = time.process_time()
    use_data(config, folder, ['train', 'val'])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'{time.process_time() - before:.1f} s of processor time, peak memory of the process {peak:.2f} GiB')


if __name__ == '__main__':
    main()

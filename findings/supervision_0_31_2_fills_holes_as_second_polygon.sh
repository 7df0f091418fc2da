#!/usr/bin/env bash
# supervision 0.31.2 fills the holes of masks that it writes as COCO: `as_coco` writes the outline of a hole as a second polygon of
# an object with iscrowd 0, where COCO takes the union of an object's polygons. `area` is still the one without the hole. Read with
# `from_coco(force_masks=True)` the mask is right, hole and all. One would expect run lengths, as the source had them.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, numpy 2.4.6, pycocotools 2.0.11), a ring of 25 × 20 pixels around 15 × 10
# (500 − 150 = 350), iscrowd 0, and the same without its hole; both come out alike, and smaller (outlines from pixel to pixel):
#   ring: 350 pixels, read 350, written 456 (2 polygons, iscrowd 0, area 350)
#   whole: 500 pixels, read 500, written 456 (1 polygons, iscrowd 0, area 500)
# Needs 500 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile supervision==0.31.2 pycocotools==2.0.11 \
    'numpy<3' 'pillow<14'

cat > "$folder/write.py" <<'PYTHON'
import json
import sys
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path

import numpy as np
import supervision
from PIL import Image
from pycocotools.coco import COCO

folder = Path(sys.argv[1])
whole = np.zeros((30, 40), int)
whole[5:25, 5:30] = 1
ring = whole.copy()
ring[10:20, 10:25] = 0
coco = dict(images=[], annotations=[], categories=[dict(id=1, name='thing')])
(folder / 'images').mkdir()
for number, (name, bitmap) in enumerate(dict(ring=ring, whole=whole).items(), 1):
    Image.new('RGB', (40, 30)).save(folder / f'images/{name}.png')
    coco['images'].append(dict(id=number, file_name=f'{name}.png', width=40, height=30))
    runs = [len(list(run)) for _, run in groupby(bitmap.flatten(order='F'))]  # column by column, the first of zeros
    coco['annotations'].append(dict(id=number, image_id=number, category_id=1, iscrowd=0, bbox=[5, 5, 25, 20],
                                    area=int(bitmap.sum()), segmentation=dict(size=[30, 40], counts=runs)))
(folder / 'before.json').write_text(json.dumps(coco))

data = supervision.DetectionDataset.from_coco(str(folder / 'images'), str(folder / 'before.json'), force_masks=True)
read = {Path(path).stem: int(objects.mask.sum()) for path, _, objects in data}
data.as_coco(annotations_path=str(folder / 'after.json'))


def pixels(file):
    with redirect_stdout(sys.stderr):
        content = COCO(str(folder / file))
    return {Path(content.imgs[part['image_id']]['file_name']).stem: (int(content.annToMask(part).sum()), part)
            for part in content.anns.values()}


before, after = pixels('before.json'), pixels('after.json')
for name in before:
    part = after[name][1]
    kind = f'{len(part["segmentation"])} polygons' if isinstance(part['segmentation'], list) else 'run lengths'
    print(f'{name}: {before[name][0]} pixels, read {read[name]}, written {after[name][0]} '
          f'({kind}, iscrowd {part["iscrowd"]}, area {part["area"]:.0f})')
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/write.py" "$folder" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/messages" >&2
    exit 1
}
cat "$folder/log"
grep -q 'ring: 350 pixels, read 350, written 456 (2 polygons, iscrowd 0, area 350)' "$folder/log" \
    || { echo 'changed: another mask' >&2; exit 1; }

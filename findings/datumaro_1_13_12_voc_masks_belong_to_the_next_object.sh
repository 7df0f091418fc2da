#!/usr/bin/env bash
# datumaro 1.13.12 reads VOC's instance segmentations (voc_instance_segmentation) so that the mask of each object belongs to the box
# of the next one: it groups the boxes of the XML file from 0 on, where group 0 means none, but the masks by their numbers in
# SegmentationObject, which start at 1 (0 is the background). Its own exports come back so. Written as COCO, the first box has no
# mask, each other box the mask of the object before it, and the last mask is one object too many. Nothing is said.
# One would expect the mask number 1 with the first object of the XML file, as VOC has it and as datumaro itself writes it.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, numpy 2.4.6), with a cat, a dog and a cow beside each other, whose masks fill
# their boxes, exported by datumaro as VOC and read again:
#   VOC file: cat: box from 2, number 1 on its pixels
#   VOC file: dog: box from 12, number 2 on its pixels
#   VOC file: cow: box from 22, number 3 on its pixels
#   datumaro: cat: bbox from 2, group 0
#   datumaro: dog: bbox from 12, group 1
#   datumaro: cow: bbox from 22, group 2
#   datumaro: cat: mask from 2, group 1
#   datumaro: dog: mask from 12, group 2
#   datumaro: cow: mask from 22, group 3
#   COCO: cat: box from 2, no mask
#   COCO: dog: box from 12, mask from 2
#   COCO: cow: box from 22, mask from 12
#   COCO: cow: box from 22, mask from 22
# Needs 550 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile datumaro==1.13.12 pycocotools==2.0.11 'numpy<3'

cat > "$folder/read.py" <<'PYTHON'
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from datumaro import AnnotationType, Bbox, Dataset, DatasetItem, Mask
from datumaro import Image as Media
from PIL import Image
from pycocotools import mask as rle

folder = Path(sys.argv[1])
names = ['cat', 'dog', 'cow']
annotations = []
for number, left in enumerate((2, 12, 22), 1):
    bitmap = np.zeros((10, 30), bool)
    bitmap[2:8, left:left + 6] = True
    annotations += [Bbox(left, 2, 6, 6, label=number - 1, id=number, group=number),
                    Mask(bitmap, label=number - 1, id=number, group=number)]
item = DatasetItem('a', subset='train', media=Media.from_numpy(np.zeros((10, 30, 3), np.uint8)), annotations=annotations)
voc = folder / 'voc'
Dataset.from_iterable([item], categories=names).export(str(voc), 'voc_instance_segmentation', save_media=True)

colors = {(128, 0, 0): 1, (0, 128, 0): 2, (128, 128, 0): 3}  # the first of VOC's palette
objects = Image.open(voc / 'SegmentationObject/a.png').convert('RGB')
for node in ElementTree.parse(voc / 'Annotations/a.xml').iter('object'):
    left = int(float(node.findtext('bndbox/xmin')))
    print(f'VOC file: {node.findtext("name")}: box from {left}, number {colors[objects.getpixel((left + 3, 5))]} on its pixels')

data = Dataset.import_from(str(voc), 'voc_instance_segmentation')
labels = data.categories()[AnnotationType.label]
for item in data:
    for part in item.annotations:
        print(f'datumaro: {labels[part.label].name}: {part.type.name} from {int(part.get_bbox()[0])}, group {part.group}')

data.export(str(folder / 'coco'), 'coco_instances', segmentation_mode='mask')
coco = json.loads((folder / 'coco/annotations/instances_train.json').read_text())
categories = {category['id']: category['name'] for category in coco['categories']}
for part in coco['annotations']:
    mask = part['segmentation']
    mask = f'mask from {int(rle.toBbox(rle.frPyObjects(mask, 10, 30))[0])}' if mask else 'no mask'
    print(f'COCO: {categories[part["category_id"]]}: box from {int(part["bbox"][0])}, {mask}')
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/read.py" "$folder" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/messages" >&2
    exit 1
}
cat "$folder/log"
for line in 'VOC file: cat: box from 2, number 1 on its pixels' 'datumaro: cat: bbox from 2, group 0' \
    'datumaro: cat: mask from 2, group 1' 'datumaro: dog: bbox from 12, group 1' 'COCO: dog: box from 12, mask from 2'; do
    grep -qxF "$line" "$folder/log" || { echo "changed: not '$line'" >&2; exit 1; }
done

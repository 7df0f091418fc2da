#!/usr/bin/env bash
# sahi 0.12.8 writes COCO's category ids as the class numbers of YOLO's label files, and beside them in data.yml the names as a
# list, which counts from 0. COCO's ids may be any numbers, and mostly start at 1: each object then has the name of the next class,
# and those of the last class have none. Nothing is said. One would expect the place of each category in the list of names.
# pylabel 0.1.55 does the same; its option cat_id_index=0 of ExportToYoloV5, not the default, numbers them anew.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, numpy 2.4.6, pillow 13.0.0, pandas 2.3.3), from categories 1: cat and 2: dog:
#   sahi:  names ['cat', 'dog']  cat → 1 (dog)  dog → 2 (none)
#   pylabel:  names ['cat', 'dog']  cat → 1 (dog)  dog → 2 (none)
#   pylabel with cat_id_index=0:  names ['cat', 'dog']  cat → 0 (cat)  dog → 1 (dog)
# Needs 700 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile sahi==0.12.8 pylabel==0.1.55 \
    'numpy<3' 'opencv-python<6' 'pandas<3' 'pillow<14'

cat > "$folder/write.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import yaml
from PIL import Image
from pylabel import importer
from sahi.utils.coco import Coco

folder = Path(sys.argv[1])
names = ['cat', 'dog']
coco = dict(images=[], annotations=[], categories=[])
for number, name in enumerate(names, 1):
    Image.new('RGB', (20, 10)).save(folder / f'{name}.png')
    coco['images'].append(dict(id=number, file_name=f'{name}.png', width=20, height=10))
    coco['categories'].append(dict(id=number, name=name))
    coco['annotations'].append(dict(id=number, image_id=number, category_id=number, bbox=[4, 2, 10, 6], area=60, iscrowd=0,
                                    segmentation=[[4, 2, 14, 2, 14, 8, 4, 8]]))
file = folder / 'coco.json'
file.write_text(json.dumps(coco))


def show(library):
    listed = yaml.safe_load(next((folder / library).glob('*.y*ml')).read_text())['names']
    seen = [f'names {listed}']
    for name in names:
        number = int(next((folder / library).rglob(f'{name}.txt')).read_text().split()[0])
        seen.append(f'{name} → {number} ({listed[number] if number < len(listed) else "none"})')
    print(f'{library}:', *seen, sep='  ')


Coco.from_coco_dict_or_path(str(file), image_dir=str(folder)).export_as_yolo(folder / 'sahi', disable_symlink=True)
show('sahi')
for library, options in (('pylabel', {}), ('pylabel with cat_id_index=0', dict(cat_id_index=0))):
    labels = folder / library / 'labels'
    labels.mkdir(parents=True)
    importer.ImportCoco(str(file), path_to_images='').export.ExportToYoloV5(str(labels), **options)
    show(library)
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/write.py" "$folder" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/messages" >&2
    exit 1
}
grep '→' "$folder/log"
for library in sahi pylabel; do
    grep -qxF "$library:  names ['cat', 'dog']  cat → 1 (dog)  dog → 2 (none)" "$folder/log" \
        || { echo "changed: $library writes other numbers" >&2; exit 1; }
done

#!/usr/bin/env bash
# labelformat 0.1.17 writes COCO files whose annotations have neither `id` nor `area` (and those of boxes no `iscrowd`), which COCO's
# format has in each. pycocotools cannot open them: it makes its index by `id`.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, pycocotools 2.0.11, numpy 2.4.6), from YOLO files of two images:
#   object-detection: annotations have bbox, category_id, image_id; pycocotools: KeyError: 'id'
#   instance-segmentation: annotations have bbox, category_id, image_id, iscrowd, segmentation; pycocotools: KeyError: 'id'
# Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile labelformat==0.1.17 pycocotools==2.0.11 \
    'numpy<3' 'pillow<14' 'pydantic<3' 'pydantic-xml<3'

cat > "$folder/make.py" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

folder = Path(sys.argv[1])
for task, text in (('object-detection', '0 0.5 0.5 0.2 0.4\n'), ('instance-segmentation', '0 0.1 0.2 0.5 0.2 0.5 0.8\n')):
    for kind in ('images', 'labels'):
        (folder / task / kind / 'train').mkdir(parents=True)
    for name in 'ab':
        Image.new('RGB', (20, 10)).save(folder / task / f'images/train/{name}.png')
        (folder / task / f'labels/train/{name}.txt').write_text(text)
    (folder / task / 'data.yaml').write_text('train: images/train\nval: images/train\nnc: 1\nnames: [cat]\n')
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from pycocotools.coco import COCO

for task in ('object-detection', 'instance-segmentation'):
    file = Path(sys.argv[1]) / task / 'coco.json'
    fields = sorted(set().union(*json.loads(file.read_text())['annotations']))
    try:
        with redirect_stdout(sys.stderr):
            COCO(str(file))
        opened = 'opened'
    except KeyError as error:
        opened = f'KeyError: {error}'
    print(f'{task}: annotations have {", ".join(fields)}; pycocotools: {opened}')
PYTHON

"$folder/venv/bin/python" "$folder/make.py" "$folder"
for task in object-detection instance-segmentation; do
    "$folder/venv/bin/labelformat" convert --task "$task" --input-format yolov8 --input-file "$folder/$task/data.yaml" \
        --input-split train --output-format coco --output-file "$folder/$task/coco.json" > "$folder/messages" 2>&1 \
        || { tail -n 20 "$folder/messages" >&2; exit 1; }
done
"$folder/venv/bin/python" "$folder/read.py" "$folder" 2> "$folder/messages" | tee "$folder/log"
[[ "$(grep -c "pycocotools: KeyError: 'id'" "$folder/log")" == 2 ]] || { echo 'changed: pycocotools opens them' >&2; exit 1; }

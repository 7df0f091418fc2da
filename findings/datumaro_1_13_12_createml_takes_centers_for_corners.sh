#!/usr/bin/env bash
# datumaro 1.13.12 (roboflow_create_ml) takes x and y of a CreateML annotation for the box's left upper corner. They are its center
# unless one tells Create ML otherwise: Apple documents MLObjectDetector.AnnotationType.boundingBox(units:origin:anchor:) with the
# defaults .pixel, .topLeft and .center. Each box comes out half its width too far right and half its height too far down, some
# of them beyond the image. supervision 0.31.2 reads such files as centers.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, numpy 2.4.6), with images of 40 × 30 pixels:
#   a.png: left, upper, width, height [10, 10, 20, 10], read [20, 15, 20, 10]
#   b.png: left, upper, width, height [0, 0, 40, 30], read [20, 15, 40, 30]
# Needs 550 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile datumaro==1.13.12 'numpy<3'

cat > "$folder/read.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from datumaro import Dataset
from PIL import Image

folder = Path(sys.argv[1]) / 'data'
folder.mkdir()
truth = dict(a=[10, 10, 20, 10], b=[0, 0, 40, 30])  # left, upper, width, height
content = []
for name, (left, upper, width, height) in truth.items():
    Image.new('RGB', (40, 30)).save(folder / f'{name}.png')
    center = dict(x=left + width / 2, y=upper + height / 2, width=width, height=height)
    content.append(dict(image=f'{name}.png', annotations=[dict(label='cat', coordinates=center)]))
(folder / '_annotations.createml.json').write_text(json.dumps(content))
for item in sorted(Dataset.import_from(str(folder), 'roboflow_create_ml'), key=lambda item: item.id):
    for part in item.annotations:
        print(f'{item.id}.png: left, upper, width, height {truth[item.id]}, read', [round(value) for value in part.get_bbox()])
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/read.py" "$folder" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/messages" >&2
    exit 1
}
cat "$folder/log"
grep -qxF 'a.png: left, upper, width, height [10, 10, 20, 10], read [20, 15, 20, 10]' "$folder/log" \
    || { echo 'changed: another box' >&2; exit 1; }

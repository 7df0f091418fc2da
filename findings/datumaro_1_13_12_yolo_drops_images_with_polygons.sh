#!/usr/bin/env bash
# datumaro 1.13.12 reads YOLO data sets without the images whose label file begins with a polygon (class x1 y1 x2 y2 x3 y3 …, as
# Ultralytics trains segmentation with), boxes in the same file included, and says nothing: its search for label files leaves out
# each whose first line has not five fields. Where a polygon comes after a box, the same reader ends with an error, and where all
# files begin with polygons it finds no data set. One would expect the polygons, or the error for each.
# The same search leaves out files whose first line has a number such as 5e-1.
#
# Seen on 2026-11-30 (Linux x86_64, Python 3.11, numpy 2.4.6), with two images a and b each time:
#   a | b: box | box: a b
#   a | b: box | polygon: a
#   a | b: box | polygon, box: a
#   a | b: box | box, polygon: ItemImportError: Failed to import item ('b', 'train'): Unexpected field count 7 in the bbox
#     description. Expected 5 fields (label, xc, yc, w, h).
#   a | b: polygon | polygon: DatasetNotFoundError: Failed to find dataset 'yolo' at '…'
#   a | b: box | box with 5e-1: a
# Needs 550 MB in the temporary folder. Fails when the behaviour has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install --no-compile datumaro==1.13.12 'numpy<3'

cat > "$folder/read.py" <<'PYTHON'
import sys
from pathlib import Path

from datumaro import Dataset
from PIL import Image

texts = {'box': '0 0.5 0.5 0.2 0.4\n', 'polygon': '0 0.1 0.2 0.5 0.2 0.5 0.8\n', 'box with 5e-1': '0 5e-1 0.5 0.2 0.4\n'}
cases = ('box | box', 'box | polygon', 'box | polygon, box', 'box | box, polygon', 'polygon | polygon', 'box | box with 5e-1')
for number, case in enumerate(cases):
    folder = Path(sys.argv[1]) / str(number)
    for kind in ('images', 'labels'):
        (folder / kind / 'train').mkdir(parents=True)
    for name, lines in zip('ab', case.split(' | ')):
        Image.new('RGB', (20, 10)).save(folder / f'images/train/{name}.png')
        (folder / f'labels/train/{name}.txt').write_text(''.join(texts[line] for line in lines.split(', ')))
    (folder / 'data.yaml').write_text('train: images/train\nval: images/train\nnames: [cat]\n')
    try:
        read = ' '.join(sorted(item.id for item in Dataset.import_from(str(folder), 'yolo')))
    except Exception as error:
        read = f'{type(error).__name__}: {error}'.replace(str(folder), '…')
    print(f'a | b: {case}: {read}')
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder" > "$folder/log" 2> "$folder/messages" || {
    tail -n 20 "$folder/messages" >&2
    exit 1
}
cat "$folder/log" "$folder/messages"
grep -qxF 'a | b: box | box: a b' "$folder/log" || { echo 'changed: two files of boxes are not read' >&2; exit 1; }
grep -qxF 'a | b: box | polygon: a' "$folder/log" || { echo 'changed: the polygon is read, or an error' >&2; exit 1; }
[[ ! -s "$folder/messages" ]] || { echo 'changed: there is a message' >&2; exit 1; }

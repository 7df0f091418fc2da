#!/usr/bin/env bash
# Checks and measures on GPUs all that docs/performance.md and docs/clusters.md leave open, into tables and JSON:  measure_gpu.sh FOLDER
set -euo pipefail
if (($# != 1)) || [[ $1 == -* ]]; then
    sed -n '2s/^# //p' "$0" >&2
    exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mkdir -p "$1"
out="$(cd "$1" && pwd)"
cd "$root"
python="${PYTHON:-python}"
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch sees no GPU here")'
swin=mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py
resnet=mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py

benchmark() { # NAME SUBCOMMAND …
    "$python" tools/analysis_tools/benchmark.py "${@:2}" --device cuda --json "$out/$1.json" | tee "$out/$1.txt" || echo "$1 failed" >&2
}

"$python" -m pytest -q tests/ops tests/backbones | tee "$out/tests.txt" || echo 'some tests failed: see tests.txt' >&2
"$python" tests/clusters/on_gpus.py | tee "$out/clusters.txt" || echo 'some checks failed: see clusters.txt' >&2
benchmark backbones backbone ravlt_s mala_s "$swin" "$resnet" --paths naive eager triton --batch 2 --shape 800 1344 --dtype float16 --runs 20
benchmark compiled backbone ravlt_s mala_s "$swin" --compile --paths eager triton --batch 2 --shape 800 1344 --dtype float16 --runs 20
benchmark with_cp backbone ravlt_s --with-cp --paths triton --modes forward+backward --batch 2 --shape 800 1344 --dtype float16 --runs 20
benchmark fused backbone ravlt_s --fuse --paths triton --batch 2 --shape 800 1344 --dtype float16 --runs 20
# A batch whose maps do not fit into a cache.
benchmark attention attention --batch 16 --length 67200 --head-dim 64 --paths naive eager triton --dtype float16 --runs 50
for stage in 0 1 2 3; do
    benchmark "stage$stage" backbone ravlt_s --stage "$stage" --paths naive triton --sizes 512 768 1024 1536 2048 --dtype float16 \
        --picture "$out/stage$stage.png"
done
benchmark growth backbone ravlt_s "$swin" "$resnet" --paths triton --sizes 512 768 1024 1536 2048 --dtype float16 --picture "$out/growth.png"
benchmark train train configs/maskrcnn_ravlt_s.py "$swin" "$resnet" --batch 2 --shape 800 1344 --dtype float16

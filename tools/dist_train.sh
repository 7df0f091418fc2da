#!/usr/bin/env bash
# Trains on several GPUs:  dist_train.sh CONFIG GPUS [--max-restarts N] [options of train.py]
# Several nodes: on each, NNODES=2 NODE_RANK=0|1 MASTER_ADDR=HOST PORT=29500 dist_train.sh CONFIG GPUS_PER_NODE
set -euo pipefail
if (($# < 2)); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" train.py "$2" "$1" "${@:3}"

#!/usr/bin/env bash
# Evaluates on several GPUs:  dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several nodes: on each, NNODES=2 NODE_RANK=0|1 MASTER_ADDR=HOST PORT=29500 dist_test.sh CONFIG CHECKPOINT GPUS_PER_NODE
set -euo pipefail
if (($# < 3)); then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" test.py "$3" "$1" "$2" "${@:4}"

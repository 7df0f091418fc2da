#!/usr/bin/env bash
# Evaluates on several GPUs:  dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several nodes: on each, NNODES=2 NODE_RANK=0|1 MASTER_ADDR=HOST PORT=29500 dist_test.sh CONFIG CHECKPOINT GPUS_PER_NODE
# GPUS may be auto, for all of a node; it is left out in jobs that set PET_NPROC_PER_NODE, such as Kubeflow's.
set -euo pipefail
gpus=${PET_NPROC_PER_NODE:-}
options=("${@:3}")
if (($# > 2)) && [[ $3 != -* ]]; then
    gpus=$3
    options=("${@:4}")
fi
if (($# < 2)) || [[ ! $gpus ]]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" test.py "$gpus" "$1" "$2" "${options[@]}"

#!/usr/bin/env bash
# Trains on several GPUs:  dist_train.sh CONFIG GPUS [--max-restarts N] [options of train.py]
# Several nodes: on each, NNODES=2 NODE_RANK=0|1 MASTER_ADDR=HOST PORT=29500 dist_train.sh CONFIG GPUS_PER_NODE
# GPUS may be auto, for all of a node; it is left out in jobs that set PET_NPROC_PER_NODE, such as Kubeflow's.
set -euo pipefail
gpus=${PET_NPROC_PER_NODE:-}
options=("${@:2}")
if (($# > 1)) && [[ $2 != -* ]]; then
    gpus=$2
    options=("${@:3}")
fi
if (($# < 1)) || [[ ! $gpus ]]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" train.py "$gpus" "$1" "${options[@]}"

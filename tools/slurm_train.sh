#!/usr/bin/env bash
# Trains under Slurm:  slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
# GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=… as in MMDetection. SBATCH=1 submits a job that queues itself again when
# its time is up or it is pre-empted, and continues from its newest checkpoint: SBATCH_ARGS="--time=4:00:00 --array=0-4" …
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/slurm_common.sh"
if (($# < 4)); then usage "$0"; fi
start "$1" "$2" "$4" train.py "$3" "${@:5}"

#!/usr/bin/env bash
# Evaluates under Slurm:  slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
# GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=… as in MMDetection. SBATCH=1 submits it as a batch job, with SBATCH_ARGS.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/slurm_common.sh"
if (($# < 4)); then usage "$0"; fi
start "$1" "$2" '' test.py "$3" "$4" "${@:5}"

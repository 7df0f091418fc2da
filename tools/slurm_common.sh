# What slurm_train.sh and slurm_test.sh share; they source it.

usage() {
    sed -n '2,/^set /s/^# //p' "$1" >&2
    exit 2
}

fail() {
    printf 'error: %s.\n' "$1" >&2
    exit 1
}

# start PARTITION JOB_NAME WORK_DIR SCRIPT ARGUMENTS…: on the cluster, in this terminal or as a batch job.
start() {
    local partition=$1 job_name=$2 work_dir=$3 script=$4
    shift 4
    local gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8} name
    for name in gpus gpus_per_node; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "${name^^} must be an integer of at least 1, got ${!name}"
    done
    gpus_per_node=$((gpus < gpus_per_node ? gpus : gpus_per_node))
    local gres=${GRES-gpu:$gpus_per_node}
    local layout=(--ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}")
    if [[ $gres ]]; then layout+=(--gres="$gres"); fi
    local srun_arguments sbatch_arguments
    read -ra srun_arguments <<<"${SRUN_ARGS:-}"
    read -ra sbatch_arguments <<<"${SBATCH_ARGS:-}"
    export PYTHONPATH="${tools%/*}${PYTHONPATH:+:$PYTHONPATH}"
    local step=(srun "${layout[@]}" --kill-on-bad-exit=1)
    local command=("${PYTHON:-python}" -u "$tools/$script" "$@" --launcher slurm)
    if [[ ! ${SBATCH:-} ]]; then
        exec "${step[@]}" -p "$partition" --job-name="$job_name" "${srun_arguments[@]}" "${command[@]}" \
            ${work_dir:+"--work-dir=$work_dir"}
    fi
    [[ $script != train.py ]] || check_resume "$@"
    command -v sbatch >/dev/null || fail 'sbatch is not on this machine: SBATCH=1 is for the login node of a Slurm cluster'
    sbatch -p "$partition" --job-name="$job_name" "${layout[@]}" --requeue --open-mode=append \
        --signal="B:USR1@${SIGNAL_SECONDS:-180}" "${sbatch_arguments[@]}" \
        < <(batch_script "$work_dir" "${step[@]}" "${srun_arguments[@]}" "${command[@]}")
}

# A job that is queued again would go back to the same file each time.
check_resume() {
    while (($#)); do
        local option=${1%%=*}  # which argparse takes abbreviated too
        if [[ ${#option} -gt 2 && --resume == "$option"* && ($1 == *=* || ($# -gt 1 && $2 != -*)) ]]; then
            fail 'SBATCH=1 continues from the newest checkpoint of the work directory: give --resume without a path, or leave it out'
        fi
        shift
    done
}

# batch_script WORK_DIR COMMAND…: the job on stdout. Without a work directory it is not queued again.
batch_script() {
    local work_dir=$1
    shift
    printf '#!/usr/bin/env bash\nwork_dir=%q\ncommand=(' "$work_dir"
    printf '%q ' "$@"
    printf ')\n'
    cat <<'END'
if [[ $work_dir ]]; then
    if [[ ${SLURM_ARRAY_TASK_ID:-} ]]; then
        # Each task of a job array is a training of its own, with its own seed. A second --cfg-options would replace the first.
        work_dir=$work_dir/$SLURM_ARRAY_TASK_ID
        seed=randomness.seed=$SLURM_ARRAY_TASK_ID
        seeded=()
        for word in "${command[@]}"; do
            seeded+=("$word")
            if [[ $word == --cfg-options && $seed ]]; then
                seeded+=("$seed")
                seed=
            fi
        done
        command=("${seeded[@]}" ${seed:+--cfg-options "$seed"})
    fi
    command+=(--work-dir="$work_dir" --resume)
fi
"${command[@]}" &
step=$!
time_is_up=
# Slurm signals this script ahead of the time limit; srun hands it on to the processes.
trap 'time_is_up=1; kill -USR1 "$step"' USR1
# scancel and pre-emption tell the processes themselves; they need the time to save.
trap : TERM
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do
    wait "$step"
    code=$?
done
# It saved and wants to go on, or was killed by a signal before it listened to any; a job that fails is not queued again.
if [[ $work_dir && ($code == 75 || ($time_is_up && $code -gt 128)) ]]; then
    # The first task of an array has the array's own number, by which all tasks would be queued again.
    job=$SLURM_JOB_ID
    if [[ ${SLURM_ARRAY_TASK_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    echo "job $job is queued again and continues from its checkpoint"
    scontrol requeue "$job"
fi
exit "$code"
END
}

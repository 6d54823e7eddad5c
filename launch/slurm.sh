#!/usr/bin/env bash
# Run an experiment on the nodes of a SLURM job. Submit it from the root of the repository:
#   launch/setup cuda                  # once, on a node with network access; all nodes share .venv
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 launch/slurm.sh imdb --workdir=runs/x
# One process per node uses all its GPUs: this is the default of sbatch, and each node reads its share
# of the data once. With --ntasks-per-node=8 each process uses one GPU instead.
# A minute before the time limit, and when the job is preempted, SLURM sends SIGTERM to the processes:
# they save, and the job is requeued and resumes. A job that scancel ended is not requeued.
# Usage: [DRY_RUN=1] launch/slurm.sh EXPERIMENT --workdir=DIR [--flag=value ...]
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@60
set -euo pipefail
refuse() { echo "$1" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$root/experiments" ] || root=$PWD # SLURM runs a copy of this file, in the folder of sbatch
[ -d "$root/experiments" ] || refuse "call sbatch from the root of the repository; $PWD is not it"
[ $# -gt 0 ] || refuse "usage: launch/slurm.sh EXPERIMENT --workdir=DIR [--flag=value ...]"
experiment=$1
shift
grep -qsF 'cli.main(' "$root/experiments/$experiment.py" ||
  refuse "there is no experiment $experiment; launch/run without arguments lists them"
workdir=
for flag in "$@"; do
  case $flag in --workdir=*) workdir=${flag#--workdir=} ;; esac
done
[ -n "$workdir" ] ||
  refuse "--workdir=DIR is missing, on a file system that all nodes share: a requeued job resumes from it"
workdir=${workdir/#\~/$HOME}

gpus=${SLURM_GPUS_ON_NODE:-0}
if [ "$gpus" -gt 0 ] && [ "${SLURM_NTASKS_PER_NODE:-1}" -eq 1 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1))) # otherwise jax uses one GPU per process under SLURM
  export JAX_LOCAL_DEVICE_IDS
fi
if [ "$gpus" -gt 0 ]; then extra=cuda; else extra=experiments; fi
setup=("$root/launch/setup" "$extra")
command=(
  srun --kill-on-bad-exit=1 --cpu-bind=none
  "$root/.venv/bin/python" -m "experiments.$experiment" --coordinator=auto "$@"
)
if [ -n "${DRY_RUN:-}" ]; then
  for line in "$(printf '%q ' "${setup[@]}")" "$(printf '%q ' "${command[@]}")"; do
    echo "${line% }"
  done
  exit
fi

"${setup[@]}"
mkdir -p "$workdir"
code=0
"${command[@]}" >"$workdir/stdout.txt" || code=$?
if result=$(grep '^{"experiment": ' "$workdir/stdout.txt"); then
  tail -n 1 <<<"$result" | tee "$workdir/result.json"
elif [ "$code" -eq 0 ] || [ "$code" -eq 143 ]; then # stopped by SIGTERM, after saving or before the first step
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

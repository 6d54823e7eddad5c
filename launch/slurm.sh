#!/usr/bin/env bash
# Runs an experiment on the nodes of a SLURM job; submitted from the root of the repository:
#   launch/setup cuda                  # once, where there is a network; all nodes share .venv
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 launch/slurm.sh imdb --out=runs/x
# One process a node, with all GPUs of it: what sbatch allots without being asked, and each node
# reads its share of the data once. With --ntasks-per-node=8, too, each process takes one GPU.
# A minute before the time limit, and when the job is preempted, SLURM sends SIGTERM to the processes:
# they save, and the job goes back into the queue and resumes. What scancel ends is not queued again.
# Usage: [DRY_RUN=1] launch/slurm.sh EXPERIMENT --out=DIR [--flag=value ...]
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@60
set -euo pipefail
refuse() { echo "$1" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$root/experiments" ] || root=$PWD # SLURM runs a copy of this file, where sbatch was called
[ -d "$root/experiments" ] || refuse "call sbatch from the root of the repository; $PWD is not it"
[ $# -gt 0 ] || refuse "usage: launch/slurm.sh EXPERIMENT --out=DIR [--flag=value ...]"
experiment=$1
shift
grep -qs '^if __name__' "$root/experiments/$experiment.py" ||
  refuse "there is no experiment $experiment; launch/run alone lists them"
out=
for flag in "$@"; do
  case $flag in --out=*) out=${flag#--out=} ;; esac
done
[ -n "$out" ] ||
  refuse "--out=DIR is missing, on a disk that all nodes share: without it no job could resume"
out=${out/#\~/$HOME}

gpus=${SLURM_GPUS_ON_NODE:-0}
if [ "$gpus" -gt 0 ] && [ "${SLURM_NTASKS_PER_NODE:-1}" -eq 1 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1))) # under SLURM jax takes but one a process, else
  export JAX_LOCAL_DEVICE_IDS
fi
if [ "$gpus" -gt 0 ]; then extra=cuda; else extra=base; fi
setup=("$root/launch/setup" "$extra")
command=(
  srun --kill-on-bad-exit=1 --cpu-bind=none
  "$root/.venv/bin/python" -m "experiments.$experiment" --distributed=auto "$@"
)
if [ -n "${DRY_RUN:-}" ]; then
  for line in "$(printf '%q ' "${setup[@]}")" "$(printf '%q ' "${command[@]}")"; do
    echo "${line% }"
  done
  exit
fi

"${setup[@]}"
mkdir -p "$out"
code=0
"${command[@]}" >"$out/stdout.txt" || code=$?
if result=$(grep '^{"experiment": ' "$out/stdout.txt"); then
  tail -n 1 <<<"$result" | tee "$out/result.json"
elif [ "$code" -eq 0 ] || [ "$code" -eq 143 ]; then # stopped by SIGTERM, saved or not yet begun
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

#!/usr/bin/env bash
# Runs an experiment on all workers of a TPU VM slice, as it is in the commit checked out here:
#   ssh-add ~/.ssh/google_compute_engine
#   launch/tpu_vm.sh NAME ZONE imdb --out=/mnt/shared/x
# The commit is copied, .venv is made once on each worker, with a Python of its own, and one process a
# worker takes all its chips. Of several workers each has its own disk, so --out (and --data_dir) lie
# on one that all have mounted, such as a Filestore share. Not gs://: records are plain files.
# Ctrl-C lets the run save; the same command resumes.
# Usage: [DRY_RUN=1] launch/tpu_vm.sh NAME ZONE EXPERIMENT --out=/DIR [--flag=value ...]
set -euo pipefail
refuse() { echo "$1" >&2; exit 2; }
cd "$(dirname "$0")/.."
[ $# -ge 3 ] ||
  refuse "usage: launch/tpu_vm.sh NAME ZONE EXPERIMENT --out=/DIR [--flag=value ...]"
name=$1 zone=$2 experiment=$3
shift 3
grep -qs '^if __name__' "experiments/$experiment.py" ||
  refuse "there is no experiment $experiment; launch/run alone lists them"
out=
for flag in "$@"; do
  case $flag in
    --*=gs://*) refuse "$flag: mount the bucket on all workers, and name the folder it is then" ;;
    --out=*) out=${flag#--out=} ;;
  esac
done
case $out in
  /*) ;;
  *) refuse "--out must begin with /, on a disk that all workers have mounted; got '$out'" ;;
esac

run() {
  if [ -n "${DRY_RUN:-}" ]; then
    line=$(printf '%q ' "$@")
    echo "${line% }"
  else
    "$@"
  fi
}
each() { run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$1"; }

git diff --quiet HEAD || echo "what is not committed stays here" >&2
run mkdir -p build
run git bundle create --quiet build/rnnjax.bundle HEAD
run gcloud compute tpus tpu-vm scp build/rnnjax.bundle "$name:" "--zone=$zone" --worker=all
each "git init --quiet rnnjax && cd rnnjax && git fetch --quiet ../rnnjax.bundle HEAD && \
git checkout --quiet --force --detach FETCH_HEAD"
each "cd rnnjax && { [ -x .venv/bin/python ] || { curl -LsSf https://astral.sh/uv/install.sh | sh && \
~/.local/bin/uv venv --quiet --seed --python=3.12; }; } && launch/setup tpu"
flags=$(printf ' %q' "--distributed=auto" "$@")
trap 'each "pkill -TERM -f [e]xperiments.$experiment || true"' INT
each "cd rnnjax && exec .venv/bin/python -m experiments.$experiment$flags"

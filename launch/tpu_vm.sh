#!/usr/bin/env bash
# Run an experiment on all workers of a TPU VM slice, from the commit that is checked out here:
#   ssh-add ~/.ssh/google_compute_engine
#   launch/tpu_vm.sh NAME ZONE imdb --workdir=/mnt/shared/x
# The commit is copied to each worker, .venv is created once there with a separate Python, and one
# process per worker uses all its chips. Each worker has its own disk, so --workdir and --data_dir must
# be on a file system that all have mounted, such as a Filestore share. gs:// does not work, as metrics
# are plain files. Ctrl-C stops the run after saving; the same command resumes.
# Usage: [DRY_RUN=1] launch/tpu_vm.sh NAME ZONE EXPERIMENT --workdir=/DIR [--flag=value ...]
set -euo pipefail
refuse() { echo "$1" >&2; exit 2; }
cd "$(dirname "$0")/.."
[ $# -ge 3 ] ||
  refuse "usage: launch/tpu_vm.sh NAME ZONE EXPERIMENT --workdir=/DIR [--flag=value ...]"
name=$1 zone=$2 experiment=$3
shift 3
grep -qsF 'cli.main(' "experiments/$experiment.py" ||
  refuse "there is no experiment $experiment; launch/run without arguments lists them"
workdir=
for flag in "$@"; do
  case $flag in
    --*=gs://*) refuse "$flag: mount the bucket on all workers and use the path of the folder" ;;
    --workdir=*) workdir=${flag#--workdir=} ;;
  esac
done
case $workdir in
  /*) ;;
  *) refuse "--workdir must begin with /, on a file system that all workers have mounted; got '$workdir'" ;;
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

git diff --quiet HEAD || echo "changes that are not committed are not copied" >&2
run mkdir -p build
run git bundle create --quiet build/rnnjax.bundle HEAD
run gcloud compute tpus tpu-vm scp build/rnnjax.bundle "$name:" "--zone=$zone" --worker=all
each "git init --quiet rnnjax && cd rnnjax && git fetch --quiet ../rnnjax.bundle HEAD && \
git checkout --quiet --force --detach FETCH_HEAD"
each "cd rnnjax && { [ -x .venv/bin/python ] || { curl -LsSf https://astral.sh/uv/install.sh | sh && \
~/.local/bin/uv venv --quiet --seed --python=3.12; }; } && launch/setup tpu"
flags=$(printf ' %q' "--coordinator=auto" "$@")
trap 'each "pkill -TERM -f [e]xperiments.$experiment || true"' INT
each "cd rnnjax && exec .venv/bin/python -m experiments.$experiment$flags"

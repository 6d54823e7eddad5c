"""The launchers, with simulated SLURM, gcloud and python that log how they are called."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = [path for path in sorted((*ROOT.glob("launch/*"), *ROOT.glob(".ci/*"))) if path.is_file()]
SCRIPTS = [path.relative_to(ROOT) for path in FILES if path.read_text().startswith("#!")]
AWKWARD_FLAGS = ["--text_column=Review Text", '--prompt_file=it\'s "$HOME" & *; \\', "--data_dir="]
PYTHON = f"""#!{sys.executable}
import json, os, signal, sys
with open(os.environ["LOG"], "a") as log:
  ids = os.environ.get("JAX_LOCAL_DEVICE_IDS")
  log.write(json.dumps(["python", os.getcwd(), ids, *sys.argv[1:]]) + chr(10))
print("some text")
exec(os.environ.get("THEN", ""))
"""
RESULT = """print('{"experiment": "imdb", "valid/accuracy": 1}'); print("of another process")"""
FAKES = {
  "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
  "scontrol": 'echo "[\\"scontrol\\", \\"$1\\", \\"$2\\"]" >>"$LOG"',
  "gcloud": f"""exec {sys.executable} - "$@" <<'END'
import json, os, pathlib, shutil, subprocess, sys, time
with open(os.environ["LOG"], "a") as log:
  log.write(json.dumps(["gcloud", *sys.argv[1:]]) + chr(10))
verb, what = sys.argv[4:6]
command = sys.argv[-1].removeprefix("--command=")
for home in sorted(pathlib.Path(os.environ["WORKERS"]).iterdir()):
  if verb == "scp":
    shutil.copy(what, home)
  elif "exec" in command and "WAIT" in os.environ:
    time.sleep(60)
  elif "pkill" not in command:
    subprocess.run(["bash", "-c", command], cwd=home, check=True)
END""",
}


def run_git(folder, *words):
  command = ["git", "-c", "user.name=me", "-c", "user.email=me@here", *words]
  return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def write_script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
  path.chmod(0o755)


@pytest.fixture
def fake_repo(tmp_path):
  """Return a repository with the launchers, whose python logs its arguments."""
  root = tmp_path / "a house"
  for name in ("slurm.sh", "tpu_vm.sh"):
    write_script(root / "launch" / name, (ROOT / "launch" / name).read_text())
  write_script(root / "launch/setup", 'echo "[\\"setup\\", \\"$1\\"]" >>"$LOG"')
  (root / "experiments").mkdir()
  (root / "experiments/imdb.py").write_text("cli.main(Config, run)\n")
  (root / "experiments/helper.py").touch()
  (root / ".gitignore").write_text(".venv/\nbuild/\n")
  run_git(root, "init", "--quiet")
  run_git(root, "add", ".")
  run_git(root, "commit", "--quiet", "--message=all")
  write_script(root / ".venv/bin/python", PYTHON)
  for name, text in FAKES.items():
    write_script(tmp_path / "bin" / name, text)
  for number in range(2):
    write_script(tmp_path / f"workers/{number}/rnnjax/.venv/bin/python", PYTHON)
  return root


def run_launcher(repo, *words, cwd=None, **more):
  """Run a launcher; return the completed process and the logged calls."""
  done = subprocess.run(
    words,
    cwd=cwd or repo,
    env=launcher_env(repo, **more),
    capture_output=True,
    text=True,
    timeout=60,
  )
  log = repo.parent / "log"
  return done, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def launcher_env(repo, **more):
  up = repo.parent
  env = {"LOG": str(up / "log"), "WORKERS": str(up / "workers"), "SLURM_JOB_ID": "42"}
  path = f"{up / 'bin'}:{os.environ['PATH']}"
  rest = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "JAX"))}
  return rest | env | {"PATH": path, "HOME": str(up)} | more


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_shellcheck_passes(path):
  tool = pathlib.Path(sys.executable).with_name("shellcheck")
  done = subprocess.run([tool, path], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


def test_expected_scripts_exist():
  assert {path.name for path in SCRIPTS} >= {"run", "setup", "test", "slurm.sh", "tpu_vm.sh"}


@pytest.mark.parametrize(
  "words, sentence",
  [
    (["slurm.sh"], "usage: launch/slurm.sh EXPERIMENT"),
    (["slurm.sh", "imbd", "--workdir=x"], "there is no experiment imbd"),
    (["slurm.sh", "helper", "--workdir=x"], "there is no experiment helper"),
    (["slurm.sh", "imdb", "--cell=gru"], "--workdir=DIR is missing"),
    (["tpu_vm.sh", "me", "there"], "usage: launch/tpu_vm.sh NAME ZONE EXPERIMENT"),
    (["tpu_vm.sh", "me", "there", "imbd", "--workdir=/x"], "there is no experiment imbd"),
    (["tpu_vm.sh", "me", "there", "imdb"], "--workdir must begin with /"),
    (["tpu_vm.sh", "me", "there", "imdb", "--workdir=x"], "--workdir must begin with /"),
    (
      ["tpu_vm.sh", "me", "there", "imdb", "--workdir=gs://a/b"],
      "--workdir=gs://a/b: mount the bucket",
    ),
  ],
)
def test_invalid_arguments_print_one_line_error(fake_repo, words, sentence):
  """One line on stderr, exit code 2, and no command is called."""
  done, log = run_launcher(fake_repo, f"launch/{words[0]}", *words[1:])
  assert (done.returncode, done.stdout, log) == (2, "", [])
  assert done.stderr.startswith(sentence)
  assert len(done.stderr.splitlines()) == 1


def test_slurm_dry_run_prints_commands(fake_repo):
  """The two commands are printed exactly, and nothing is executed."""
  done, log = run_launcher(
    fake_repo, "launch/slurm.sh", "imdb", *AWKWARD_FLAGS, "--workdir=runs/x", DRY_RUN="1"
  )
  assert (done.returncode, done.stderr, log) == (0, "", [])
  setup, command = map(shlex.split, done.stdout.splitlines())
  assert setup == [str(fake_repo / "launch/setup"), "experiments"]
  assert command == [
    "srun",
    "--kill-on-bad-exit=1",
    "--cpu-bind=none",
    str(fake_repo / ".venv/bin/python"),
    "-m",
    "experiments.imdb",
    "--coordinator=auto",
    *AWKWARD_FLAGS,
    "--workdir=runs/x",
  ]
  assert not (fake_repo / "runs").exists()


@pytest.mark.parametrize(
  "slurm_env, extra, ids",
  [
    ({}, "experiments", None),
    ({"SLURM_GPUS_ON_NODE": "4"}, "cuda", "0,1,2,3"),
    ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, "cuda", None),
  ],
)
def test_slurm_job_passes_flags_and_saves_result(fake_repo, slurm_env, extra, ids):
  """The process gets its flags and all GPUs of its node; its result is saved."""
  flags = ["imdb", *AWKWARD_FLAGS, "--workdir=runs/x y"]
  done, log = run_launcher(fake_repo, "launch/slurm.sh", *flags, THEN=RESULT, **slurm_env)
  assert done.returncode == 0, done.stderr
  asked = ["-m", "experiments.imdb", "--coordinator=auto", *flags[1:]]
  assert log == [["setup", extra], ["python", str(fake_repo), ids, *asked]]
  result = (fake_repo / "runs/x y/result.json").read_text()
  assert result == done.stdout == '{"experiment": "imdb", "valid/accuracy": 1}\n'


@pytest.mark.parametrize(
  "then, code, queued",
  [
    ("sys.exit(0)", 0, True),  # saved after SIGTERM
    ("os.kill(os.getpid(), signal.SIGTERM)", 143, True),  # killed before the first step
    ("sys.exit(1)", 1, False),
    (RESULT, 0, False),
  ],
)
def test_slurm_requeues_preempted_job(fake_repo, then, code, queued):
  """A job that failed or finished is not requeued."""
  done, log = run_launcher(fake_repo, "launch/slurm.sh", "imdb", "--workdir=x", THEN=then)
  assert done.returncode == code, done.stderr
  assert (["scontrol", "requeue", "42"] in log) == queued
  assert (fake_repo / "x/result.json").exists() == (then == RESULT)


def test_slurm_script_runs_from_spool_copy(fake_repo):
  """SLURM runs a copy of the script: the current folder must be the root of the repository."""
  copy = fake_repo.parent / "spool/job42"
  write_script(copy, (ROOT / "launch/slurm.sh").read_text())
  done, log = run_launcher(fake_repo, copy, "imdb", "--workdir=x", THEN=RESULT)
  assert done.returncode == 0, done.stderr
  assert log[0] == ["setup", "experiments"]
  done, _ = run_launcher(fake_repo, copy, "imdb", "--workdir=x", cwd=fake_repo / "launch")
  assert done.returncode == 2
  assert "from the root of the repository" in done.stderr


def test_tpu_dry_run_equals_executed_commands(fake_repo):
  """All workers get the commit and the flags; the dry run prints the same gcloud commands."""
  words = ["launch/tpu_vm.sh", "me", "there", "imdb", *AWKWARD_FLAGS, "--workdir=/mnt/a b"]
  dry, log = run_launcher(fake_repo, *words, DRY_RUN="1")
  assert (dry.returncode, dry.stderr, log) == (0, "", [])
  shown = list(map(shlex.split, dry.stdout.splitlines()))
  done, log = run_launcher(fake_repo, *words)
  assert done.returncode == 0, done.stderr
  assert [line for line in log if line[0] == "gcloud"] == shown[2:]
  to = ["--zone=there", "--worker=all"]
  tpu = ["gcloud", "compute", "tpus", "tpu-vm"]
  assert shown[2] == [*tpu, "scp", "build/rnnjax.bundle", "me:", *to]
  assert all(line[:-1] == [*tpu, "ssh", "me", *to] for line in shown[3:])
  asked = ["-m", "experiments.imdb", "--coordinator=auto", *AWKWARD_FLAGS, "--workdir=/mnt/a b"]
  homes = [fake_repo.parent / f"workers/{number}/rnnjax" for number in range(2)]
  assert [line for line in log if line[0] != "gcloud"] == [
    ["setup", "tpu"],
    ["setup", "tpu"],
    *(["python", str(home), None, *asked] for home in homes),
  ]
  assert {run_git(home, "rev-parse", "HEAD") for home in homes} == {
    run_git(fake_repo, "rev-parse", "HEAD")
  }


def test_tpu_workers_update_to_new_commit(fake_repo):
  """A second call updates the workers, and warns about uncommitted changes."""
  words = ["launch/tpu_vm.sh", "me", "there", "imdb", "--workdir=/x"]
  run_launcher(fake_repo, *words)
  with open(fake_repo / "experiments/imdb.py", "a") as file:
    file.write("# changed\n")
  done, _ = run_launcher(fake_repo, *words)
  assert "not committed are not copied" in done.stderr
  worker = fake_repo.parent / "workers/1/rnnjax"
  assert "changed" not in (worker / "experiments/imdb.py").read_text()
  run_git(fake_repo, "commit", "--quiet", "--all", "--message=changed")
  done, _ = run_launcher(fake_repo, *words)
  assert (done.returncode, done.stderr) == (0, "")
  assert "changed" in (worker / "experiments/imdb.py").read_text()


def test_tpu_ctrl_c_sends_sigterm_to_workers(fake_repo):
  """Ctrl-C sends SIGTERM to the experiment on each worker."""
  words = ["launch/tpu_vm.sh", "me", "there", "imdb", "--workdir=/x"]
  options = dict(
    env=launcher_env(fake_repo, WAIT="1"), start_new_session=True, stderr=subprocess.DEVNULL
  )
  process = subprocess.Popen(words, cwd=fake_repo, **options)
  log = fake_repo.parent / "log"
  for _ in range(600):
    if log.exists() and "exec .venv" in log.read_text():
      break
    time.sleep(0.1)
  os.killpg(process.pid, signal.SIGINT)
  assert process.wait(60) != 0
  last = json.loads(log.read_text().splitlines()[-1])
  assert last[-1].startswith("--command=pkill -TERM -f [e]xperiments.imdb")


def multiprocess_dry_run(*words):
  command, environment = [ROOT / "launch" / "multiprocess", *words], os.environ | {"PORT": "4321"}
  environment["DRY_RUN"] = "1"
  return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("mesh", [[], ["--mesh=batch:4"]])
def test_multiprocess_commands(mesh):
  """Each process has its index and the same address, and one device unless --mesh is given."""
  shown = multiprocess_dry_run("2", "imdb", *AWKWARD_FLAGS, *mesh).stdout.splitlines()
  python = [".venv/bin/python", "-m", "experiments.imdb", *([] if mesh else ["--mesh=batch:2"])]
  ends = [f"--coordinator=127.0.0.1:4321,2,{i}" for i in range(2)]
  assert list(map(shlex.split, shown)) == [[*python, *AWKWARD_FLAGS, *mesh, end] for end in ends]


@pytest.mark.parametrize("words", [[], ["imdb"], ["0", "imdb"], ["two", "imdb"], ["2", "helper"]])
def test_multiprocess_invalid_arguments(words):
  done = multiprocess_dry_run(*words)
  assert done.returncode == 2 and not done.stdout
  assert "usage: launch/multiprocess" in done.stderr or "no experiment helper" in done.stderr

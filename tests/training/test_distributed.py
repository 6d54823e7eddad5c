"""Multi-host training as two processes over loopback."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from rnnjax.training import distributed
from rnnjax.types import InvalidInputError
from tests import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = [
  "--dataset=embedded",
  "--hidden_size=8",
  "--embed_dim=8",
  "--num_layers=1",
  "--batch_size=32",
  "--ngram_order=0",
]
ENVIRONMENT = os.environ | {"XLA_FLAGS": xla_flags.FLAGS}


def start_hosts(num_hosts, workdir, *flags):
  command = ["launch/multiprocess", str(num_hosts), "imdb", *FLAGS, f"--workdir={workdir}", *flags]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)


def wait_for_result(run):
  stdout, stderr = run.communicate(timeout=300)
  assert run.returncode == 0, stderr
  return json.loads(stdout.splitlines()[-1])


def metric_rows(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def loss_curve(workdir):
  return [[row[name] for name in ("train/loss", "valid/loss")] for row in metric_rows(workdir)]


def tokens_per_step(workdir):
  """Return the tokens per step of the last epoch."""
  last = metric_rows(workdir)[-1]
  return last["tokens_per_second"] * last["seconds/step"]


def test_two_hosts_resume_and_equal_one_host(tmp_path):
  """SIGTERM stops both hosts after the same step; resumed, they end with the scores of one host."""
  one = wait_for_result(start_hosts(1, tmp_path / "one", "--epochs=3"))
  two = start_hosts(2, tmp_path / "two", "--epochs=3", "--checkpoint_every=10")
  wait_for_checkpoint(tmp_path / "two")
  two.send_signal(signal.SIGTERM)
  _, stderr = two.communicate(timeout=60)
  assert two.returncode == 0 and "stopped after step" in stderr, stderr
  resumed = wait_for_result(start_hosts(2, tmp_path / "two", "--epochs=3", "--checkpoint_every=10"))
  assert resumed["test/loss"] == pytest.approx(one["test/loss"], abs=1e-5)
  # Batches that were prefetched before the stop are not counted in the metrics of the first epoch.
  for (_, a), (_, b) in zip(
    loss_curve(tmp_path / "two"), loss_curve(tmp_path / "one"), strict=True
  ):
    assert a == pytest.approx(b, abs=1e-5)
  assert tokens_per_step(tmp_path / "two") == pytest.approx(tokens_per_step(tmp_path / "one"))


@pytest.mark.parametrize("lost", [0, 1], ids=["primary", "secondary"])
def test_lost_host_stops_the_other_within_a_minute(tmp_path, lost):
  """One of two hosts is killed, be it the coordinator. The other host ends by itself, before the
  launcher kills it after 50 s, and the launcher reports how to resume."""
  run = start_hosts(2, tmp_path / "run", "--epochs=10000", "--checkpoint_every=10")
  wait_for_checkpoint(tmp_path / "run")
  children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
  os.kill(int(children[lost]), signal.SIGKILL)
  _, stderr = run.communicate(timeout=45)
  assert run.returncode != 0
  assert "one of 2 processes was lost" in stderr and "The same command resumes" in stderr


def wait_for_checkpoint(workdir):
  for _ in range(1200):
    if any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*")):
      return
    time.sleep(0.1)
  raise AssertionError("no checkpoint in two minutes")


@pytest.mark.parametrize(
  "address", ["host", "host:80", "host:80,2", "host:80,2,2", "host:,2,0", "host:1,b,0"]
)
def test_coordinator_address_parsing(address):
  assert distributed.parse_coordinator("10.0.0.1:80,2,1") == ("10.0.0.1:80", 2, 1)
  with pytest.raises(InvalidInputError, match="HOST:PORT,NUMBER,INDEX"):
    distributed.parse_coordinator(address)

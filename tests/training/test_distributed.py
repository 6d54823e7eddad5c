"""Many hosts, as two processes over loopback: the curve of one, and what happens to the other."""

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
FLAGS = "--dataset=embedded --hidden=8 --embed_dim=8 --num_layers=1 --batch_size=32 --ngram_order=0".split()
ENVIRONMENT = os.environ | {"XLA_FLAGS": xla_flags.FLAGS}


def start_hosts(number, out, *flags):
  command = ["launch/multiprocess", str(number), "imdb", *FLAGS, f"--workdir={out}", *flags]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)


def wait_for_result(run):
  out, err = run.communicate(timeout=300)
  assert run.returncode == 0, err
  return json.loads(out.splitlines()[-1])


def metric_rows(out):
  return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def loss_curve(out):
  return [[row[name] for name in ("train/loss", "valid/loss")] for row in metric_rows(out)]


def tokens_per_step(out):
  """Those of the last epoch."""
  last = metric_rows(out)[-1]
  return last["tokens_per_second"] * last["seconds/step"]


def test_two_hosts_resume_and_equal_one_host(tmp_path):
  """SIGTERM stops both after the same step; resumed, they end as one process that never stopped."""
  one = wait_for_result(start_hosts(1, tmp_path / "one", "--epochs=3"))
  two = start_hosts(2, tmp_path / "two", "--epochs=3", "--checkpoint_every=10")
  wait_for_checkpoint(tmp_path / "two")
  two.send_signal(signal.SIGTERM)
  _, err = two.communicate(timeout=60)
  assert two.returncode == 0 and "stopped after step" in err, err
  again = wait_for_result(start_hosts(2, tmp_path / "two", "--epochs=3", "--checkpoint_every=10"))
  assert again["test/loss"] == pytest.approx(one["test/loss"], abs=1e-5)
  # What was read before the stop counts in no line of the first epoch.
  for (_, a), (_, b) in zip(
    loss_curve(tmp_path / "two"), loss_curve(tmp_path / "one"), strict=True
  ):
    assert a == pytest.approx(b, abs=1e-5)
  assert tokens_per_step(tmp_path / "two") == pytest.approx(tokens_per_step(tmp_path / "one"))


@pytest.mark.parametrize("lost", [0, 1], ids=["the first", "the second"])
def test_lost_host_stops_the_other_within_a_minute(tmp_path, lost):
  """One of two is killed, be it that which all meet at: the other ends by itself, before the
  launcher ends it after 50 s, and the launcher says what to do."""
  run = start_hosts(2, tmp_path / "run", "--epochs=10000", "--checkpoint_every=10")
  wait_for_checkpoint(tmp_path / "run")
  children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
  os.kill(int(children[lost]), signal.SIGKILL)
  _, err = run.communicate(timeout=45)
  assert run.returncode != 0
  assert "of 2 processes one was lost" in err and "The same command resumes" in err


def wait_for_checkpoint(out):
  for _ in range(1200):
    if any(path.name.isdecimal() for path in (out / "checkpoints").glob("*")):
      return
    time.sleep(0.1)
  raise AssertionError("no checkpoint in two minutes")


@pytest.mark.parametrize(
  "where", ["host", "host:80", "host:80,2", "host:80,2,2", "host:,2,0", "host:1,b,0"]
)
def test_coordinator_address_parsing(where):
  assert distributed.parse_coordinator("10.0.0.1:80,2,1") == ("10.0.0.1:80", 2, 1)
  with pytest.raises(InvalidInputError, match="HOST:PORT,NUMBER,INDEX"):
    distributed.parse_coordinator(where)

"""Many hosts, as two processes over loopback: the curve of one, and what happens to the other."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from rnnjax.training import distributed
from rnnjax.types import BadInput
from tests import quick

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = "--dataset=embedded --hidden=8 --width=8 --layers=1 --batch=32 --evidence=0".split()
ENVIRONMENT = os.environ | {"XLA_FLAGS": quick.FLAGS}


def begin(number, out, *flags):
  command = ["launch/multiprocess", str(number), "imdb", *FLAGS, f"--out={out}", *flags]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)


def finish(run):
  out, err = run.communicate(timeout=300)
  assert run.returncode == 0, err
  return json.loads(out.splitlines()[-1])


def rows(out):
  return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(out):
  return [[row[name] for name in ("train/loss", "valid/loss")] for row in rows(out)]


def tokens_per_step(out):
  """Those of the last epoch."""
  last = rows(out)[-1]
  return last["tokens_per_second"] * last["seconds/step"]


def test_two_hosts_stop_resume_and_equal_one(tmp_path):
  """SIGTERM stops both after the same step; resumed, they end as one process that never stopped."""
  one = finish(begin(1, tmp_path / "one", "--epochs=3"))
  two = begin(2, tmp_path / "two", "--epochs=3", "--save_every=10")
  wait_for_checkpoint(tmp_path / "two")
  two.send_signal(signal.SIGTERM)
  _, err = two.communicate(timeout=60)
  assert two.returncode == 0 and "stopped after step" in err, err
  again = finish(begin(2, tmp_path / "two", "--epochs=3", "--save_every=10"))
  assert again["test/loss"] == pytest.approx(one["test/loss"], abs=1e-5)
  # What was read before the stop counts in no line of the first epoch.
  for (_, a), (_, b) in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
    assert a == pytest.approx(b, abs=1e-5)
  assert tokens_per_step(tmp_path / "two") == pytest.approx(tokens_per_step(tmp_path / "one"))


@pytest.mark.parametrize("lost", [0, 1], ids=["the first", "the second"])
def test_a_lost_host_ends_the_other_in_a_minute(tmp_path, lost):
  """One of two is killed, be it that which all meet at: the other ends by itself, before the
  launcher ends it after 50 s, and the launcher says what to do."""
  run = begin(2, tmp_path / "run", "--epochs=10000", "--save_every=10")
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
def test_where_hosts_meet(where):
  assert distributed.parse("10.0.0.1:80,2,1") == ("10.0.0.1:80", 2, 1)
  with pytest.raises(BadInput, match="HOST:PORT,NUMBER,INDEX"):
    distributed.parse(where)

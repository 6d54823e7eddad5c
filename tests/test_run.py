"""A run: nothing that was computed is lost, and what resumes ends as what was never disturbed."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.data.bucketed_batches import Batches
from rnnjax.training import averaging, tasks
from rnnjax.training.metrics import Mean
from rnnjax.training.trainer import Diverged, Stopped
from rnnjax.types import BadInput


@dataclasses.dataclass(frozen=True)
class Config:
  seed: int = 0
  out: str = ""
  rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Data:
  train: Batches
  valid: Batches
  test: Batches


def data():
  """Sequences whose label is their first token's parity."""
  draw = np.random.default_rng(0)
  rows = [draw.integers(0, 8, n) for n in draw.integers(1, 9, 40)]
  labels = [int(row[0]) % 2 for row in rows]
  whole = lambda seed: Batches(rows, labels, batch=8, limit=8, buckets=2, seed=seed)
  return Data(whole(0), whole(None), whole(None))


def mean_of(params, batch):
  """A linear model of the first token, with noise so that the key matters."""
  return jax.nn.one_hot(batch["tokens"][0], 8) @ params["w"]


def loss(params, carry, batch, key):
  noisy = mean_of(params, batch) + 0.1 * jax.random.normal(key, ()) + carry
  each = optax.sigmoid_binary_cross_entropy(noisy, batch["labels"])
  return 0.5 * carry + 0.1 * batch["labels"], {"loss": Mean(each.sum(), each.size)}


def score(params, carry, batch):
  right = (mean_of(params, batch) > 0) == batch["labels"]
  return carry, {"accuracy": Mean((right * batch["weights"]).sum(), batch["weights"].sum())}


def init(key, batch):
  return {"w": jax.random.normal(key, (8,))}


def start(params, batch):
  """What is carried from step to step must be resumed, too."""
  return jnp.zeros(len(batch["labels"]))


TASK = tasks.Task(init, loss, score, start)
STEPS = 12
ROOT = pathlib.Path(__file__).parents[1]


def make(config, steps=STEPS):
  adam, average = training.adam(config.rate), averaging.moving(0.9)
  return training.Run(config, TASK, data(), adam, steps, average=average)


def finish(run, stop_at=None):
  """Trains; a signal arrives at step stop_at. Returns the leaves of all that it ends with."""
  with run:
    for state, _ in run.train():
      if int(state.step) == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
    progress = run.progress._replace(seconds=0.0)
    key = jax.random.key_data(progress.state.key)
    return jax.device_get(progress._replace(state=progress.state._replace(key=key)))


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def undisturbed():
  return finish(make(Config()))


def losses(out):
  """The training losses that a run has recorded."""
  lines = (pathlib.Path(out) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["train/loss"] for line in lines]


def test_resuming_equals_never_having_stopped(tmp_path, undisturbed):
  """A run stopped in the middle of an epoch resumes bit for bit, its records, too."""
  config, whole = (Config(out=str(tmp_path / name)) for name in ("run", "whole"))
  finish(make(whole))
  with pytest.raises(Stopped) as stopped:
    finish(make(config), stop_at=7)
  assert stopped.value.code == 0
  resumed = make(config)
  assert resumed.step == 7
  assert_same(finish(resumed), undisturbed)
  assert losses(config.out) == losses(whole.out) and len(losses(whole.out)) == 3


def test_a_stopped_run_without_a_folder_is_saved_too(tmp_path, monkeypatch, undisturbed, caplog):
  """Where no folder was given, a signal makes one and names it."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(Stopped):
    finish(make(Config()), stop_at=3)
  (folder,) = pathlib.Path("runs").iterdir()
  assert str(folder) in caplog.text
  assert_same(finish(make(Config(out=str(folder)))), undisturbed)


@pytest.mark.parametrize("step", [5, STEPS])
def test_a_signal_amid_validation_is_heard_there(tmp_path, undisturbed, step):
  """The look is cut short, be it the last, and made up for when the run resumes: the best is as
  ever, on disk, too."""
  config, run = Config(out=str(tmp_path / "run")), None

  class Valid:
    def __iter__(self):
      for n, batch in enumerate(data().valid):
        if run.step == step and n == 1:
          os.kill(os.getpid(), signal.SIGTERM)
        yield batch

  run = make(config)
  run.data = dataclasses.replace(run.data, valid=Valid())
  with pytest.raises(Stopped):
    finish(run)
  resumed = make(config)
  assert (resumed.step, resumed.progress.looked) == (step, 0 if step == 5 else 10)
  assert_same(finish(resumed), undisturbed)
  assert_same(training.load(config.out).params, undisturbed.best)
  assert np.isfinite(losses(config.out)).all()


def test_lines_beyond_the_last_checkpoint_come_again(tmp_path):
  """What a lost run wrote after its last checkpoint goes, and a line cut off, too."""
  config = Config(out=str(tmp_path / "run"))
  finish(make(config))
  path = tmp_path / "run" / "metrics.jsonl"
  whole = path.read_text()
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
  path.write_text(whole[:-9])
  finish(make(config))
  steps = lambda text: [json.loads(line)["step"] for line in text.splitlines()]
  assert steps(path.read_text()) == steps(whole) == [5, 10, 12]


def test_a_disk_that_is_full(tmp_path, undisturbed):
  """No checkpoint can be written: the error says so, and with room it goes on."""
  config = Config(out=str(tmp_path / "run"))
  run = make(config)
  write = run.checkpoints.manager.save

  def save(step, **how):
    if step == 10:
      raise OSError(28, "No space left on device")
    return write(step, **how)

  run.checkpoints.manager.save = save
  with pytest.raises(OSError, match=r"step 10 cannot be saved .*No space left.*same command"):
    finish(run)
  resumed = make(config)
  assert resumed.step == 5
  assert_same(finish(resumed), undisturbed)


def test_a_trace_is_written(tmp_path):
  """--profile leaves a trace of a few steps, and refuses to without a folder."""
  with pytest.raises(BadInput, match="--profile needs --out"):
    training.Run(Config(), TASK, data(), training.adam(0.1), 20, profile=True)
  config = Config(out=str(tmp_path / "run"))
  finish(training.Run(config, TASK, data(), training.adam(0.1), 12, profile=True))  # ends amid it
  assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
  for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
    assert line["seconds/step"] > line["seconds/input"] >= 0 <= line["seconds/compile"]


def test_a_finished_run_is_not_trained_again(tmp_path, undisturbed):
  config = Config(out=str(tmp_path / "run"))
  finish(make(config))
  again = make(config)
  assert again.step == STEPS
  assert_same(finish(again), undisturbed)


def test_a_broken_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, undisturbed):
  """The newest checkpoint is cut off: the previous one serves, with a warning; and once more."""
  config = Config(out=str(tmp_path / "run"))
  finish(make(config))
  steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
  for n in (1, 2):
    for path in (tmp_path / "run" / "checkpoints" / str(steps[-1])).rglob("*"):
      if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    resumed = make(config)
    assert resumed.step == steps[-2]
    assert "cannot be read" in caplog.text
    assert len([*(tmp_path / "run").glob("broken_*")]) == n
    assert_same(finish(resumed), undisturbed)


def test_no_readable_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
  config = Config(out=str(tmp_path / "run"))
  finish(make(config))
  for step in (tmp_path / "run" / "checkpoints").iterdir():
    shutil.rmtree(step / "default")
  with pytest.raises(BadInput, match="none of the checkpoints"):
    make(config)


def test_another_configuration_is_refused_with_the_difference(tmp_path):
  out = str(tmp_path / "run")
  finish(make(Config(out=out)))
  with pytest.raises(BadInput, match=r"rate: 0\.1 there, 0\.2 asked for"):
    make(Config(out=out, rate=0.2))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
  """An infinite rate: the error names the step, and no checkpoint is written over."""
  config = Config(out=str(tmp_path / "run"), rate=float("inf"))
  with pytest.raises(Diverged, match=r"step 1 is not taken.*: w\. .*--rate"):
    finish(make(config))
  assert make(config).step == 0


def test_the_best_parameters_in_validation_are_tested():
  """A run that ends worse than it was is tested as it was at its best."""
  run = make(Config())
  with run:
    for _ in run.train():
      pass
    best = run.progress.best
    worst = jax.tree.map(lambda p: -p, best)
    run.progress = run.progress._replace(state=run.progress.state._replace(average=worst))
    assert run.test()["test/accuracy"] == run.progress.score


@pytest.mark.parametrize(
  "looks, chosen",
  [([0.9, np.nan, 0.5, 0.6], 0.9), ([np.nan, 0.5, 0.6, 0.2], 0.6), ([np.nan] * 4, np.nan)],
)
def test_what_is_no_number_is_no_bar(monkeypatch, looks, chosen):
  """A look that finds none loses nothing, and hinders none after it."""
  found = iter(looks)
  monkeypatch.setattr("rnnjax.training.trainer.evaluate", lambda *_: {"accuracy": next(found)})
  run = training.Run(Config(), TASK, data(), training.adam(0.1), len(looks), every=1)
  made = {}
  with run:
    for state, _ in run.train():
      made[int(state.step)] = jax.device_get(state.params)
    last = {look: step for step, look in enumerate(looks, 1)}
  np.testing.assert_equal(run.progress.score, chosen)
  assert_same(jax.device_get(run.best), made[last.get(chosen, len(looks))])


def test_a_score_that_is_none_of_the_tasks_is_refused():
  with pytest.raises(BadInput, match="among what the task scores, accuracy; got 'bleu'"):
    training.Run(Config(), TASK, data(), training.adam(0.1), STEPS, score="bleu")


def test_a_run_in_a_thread(undisturbed):
  """It hears no signals, which only the main thread can, and ends as any other."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    assert_same(thread.submit(lambda: finish(make(Config()))).result(), undisturbed)


def test_a_configuration_of_a_script(tmp_path):
  """A run of a class that a file defines, which is no module, is known by the file's name."""
  path = tmp_path / "study.py"
  path.write_text(
    "import dataclasses\nfrom rnnjax.training import records\n"
    "@dataclasses.dataclass(frozen=True)\nclass Config:\n  seed: int = 0\n"
    "print(records.experiment(Config))\n"
  )
  run = subprocess.run(
    [sys.executable, path],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert run.stdout == "study\n", run.stderr


def test_records_need_no_git(tmp_path, monkeypatch):
  """Where it is not installed, the commit is unknown, and the run goes on."""
  monkeypatch.setenv("PATH", str(tmp_path))
  finish(make(Config(out=str(tmp_path / "run")), steps=1))
  kept = json.loads((tmp_path / "run" / "config.json").read_text())
  assert kept["versions"]["commit"] == "unknown"


def test_records_hold_configuration_versions_and_metrics(tmp_path):
  out = tmp_path / "run"
  finish(make(Config(out=str(out))))
  kept = json.loads((out / "config.json").read_text())
  assert kept["config"] == {"seed": 0, "rate": 0.1}
  assert {"commit", "jax"} <= set(kept["versions"])
  lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [5, 10, 12]
  assert {"train/loss", "valid/accuracy"} <= set(lines[0])
  assert list(out.glob("events.*"))

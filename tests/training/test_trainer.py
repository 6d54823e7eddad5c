"""The trainer: checkpoints, resumption after faults, selection of the best parameters."""

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
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.training import averaging, tasks
from rnnjax.training.metrics import Mean
from rnnjax.training.trainer import DivergedError, Preempted
from rnnjax.types import InvalidInputError


@dataclasses.dataclass(frozen=True)
class Config:
  seed: int = 0
  workdir: str = ""
  learning_rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Splits:
  train: BucketedBatches
  valid: BucketedBatches
  test: BucketedBatches


def make_splits():
  """Return data whose labels are the parity of the first token."""
  draw = np.random.default_rng(0)
  rows = [draw.integers(0, 8, n) for n in draw.integers(1, 9, 40)]
  labels = [int(row[0]) % 2 for row in rows]

  def make_batches(seed):
    return BucketedBatches(rows, labels, batch_size=8, max_length=8, max_buckets=2, seed=seed)

  return Splits(make_batches(0), make_batches(None), make_batches(None))


def model_logits(params, batch):
  """Return the logits of a linear model of the first token."""
  return jax.nn.one_hot(batch["tokens"][0], 8) @ params["w"]


def task_loss(params, carry, batch, key):
  # Noise, so that the result depends on the key; the carry, so that it must be resumed.
  noisy = model_logits(params, batch) + 0.1 * jax.random.normal(key, ()) + carry
  losses = optax.sigmoid_binary_cross_entropy(noisy, batch["labels"])
  return 0.5 * carry + 0.1 * batch["labels"], {"loss": Mean(losses.sum(), losses.size)}


def task_score(params, carry, batch):
  right = (model_logits(params, batch) > 0) == batch["labels"]
  return carry, {"accuracy": Mean((right * batch["weights"]).sum(), batch["weights"].sum())}


def init_params(key, batch):
  return {"w": jax.random.normal(key, (8,))}


def initial_carry(params, batch):
  return jnp.zeros(len(batch["labels"]))


TASK = tasks.Task(init_params, task_loss, task_score, initial_carry)
STEPS = 12
ROOT = pathlib.Path(__file__).parents[2]


def make_trainer(config, steps=STEPS):
  adam, average = training.adam(config.learning_rate), averaging.ema(0.9)
  return training.Trainer(config, TASK, make_splits(), adam, steps, averaging=average)


def finish_training(run, stop_at=None):
  """Train, with a signal at step `stop_at`; return the final state without its duration."""
  with run:
    for state, _ in run.train():
      if int(state.step) == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
    progress = run.state._replace(seconds=0.0)
    key = jax.random.key_data(progress.train_state.key)
    return jax.device_get(progress._replace(train_state=progress.train_state._replace(key=key)))


def assert_trees_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def uninterrupted_result():
  return finish_training(make_trainer(Config()))


def recorded_losses(workdir):
  """Return the training losses in metrics.jsonl."""
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["train/loss"] for line in lines]


def test_resumed_run_equals_uninterrupted_run(tmp_path, uninterrupted_result):
  """A run that stopped within an epoch resumes bit for bit, including its metrics."""
  config, whole = (Config(workdir=str(tmp_path / name)) for name in ("run", "whole"))
  finish_training(make_trainer(whole))
  with pytest.raises(Preempted) as stopped:
    finish_training(make_trainer(config), stop_at=7)
  assert stopped.value.code == 0
  resumed = make_trainer(config)
  assert resumed.step == 7
  assert_trees_equal(finish_training(resumed), uninterrupted_result)
  assert (
    recorded_losses(config.workdir) == recorded_losses(whole.workdir)
    and len(recorded_losses(whole.workdir)) == 3
  )


def test_stopped_run_without_workdir_is_saved(tmp_path, monkeypatch, uninterrupted_result, caplog):
  """A run without workdir is saved in a new one, whose name is logged."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(Preempted):
    finish_training(make_trainer(Config()), stop_at=3)
  (folder,) = pathlib.Path("runs").iterdir()
  assert str(folder) in caplog.text
  assert_trees_equal(
    finish_training(make_trainer(Config(workdir=str(folder)))), uninterrupted_result
  )


@pytest.mark.parametrize("step", [5, STEPS])
def test_signal_during_validation_stops_and_resumes(tmp_path, uninterrupted_result, step):
  """An interrupted validation, also the last one, is repeated after resumption, and the same best
  parameters are saved."""
  config, run = Config(workdir=str(tmp_path / "run")), None

  class Valid:
    def __iter__(self):
      for n, batch in enumerate(make_splits().valid):
        if run.step == step and n == 1:
          os.kill(os.getpid(), signal.SIGTERM)
        yield batch

  run = make_trainer(config)
  run.data = dataclasses.replace(run.data, valid=Valid())
  with pytest.raises(Preempted):
    finish_training(run)
  resumed = make_trainer(config)
  assert (resumed.step, resumed.state.last_eval_step) == (step, 0 if step == 5 else 10)
  assert_trees_equal(finish_training(resumed), uninterrupted_result)
  assert_trees_equal(
    training.load_saved_run(config.workdir).params, uninterrupted_result.best_params
  )
  assert np.isfinite(recorded_losses(config.workdir)).all()


def test_metrics_after_last_checkpoint_are_rewritten(tmp_path):
  """Metrics of later steps than the last checkpoint are removed, and so is an incomplete line."""
  config = Config(workdir=str(tmp_path / "run"))
  finish_training(make_trainer(config))
  path = tmp_path / "run" / "metrics.jsonl"
  text = path.read_text()
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
  path.write_text(text[:-9])
  finish_training(make_trainer(config))
  for metrics in (text, path.read_text()):
    assert [json.loads(line)["step"] for line in metrics.splitlines()] == [5, 10, 12]


def test_full_disk_raises_and_run_resumes(tmp_path, uninterrupted_result):
  """The error says that the checkpoint cannot be written; with free space the run resumes."""
  config = Config(workdir=str(tmp_path / "run"))
  run = make_trainer(config)
  original_save = run.checkpoints.manager.save

  def save(step, **kwargs):
    if step == 10:
      raise OSError(28, "No space left on device")
    return original_save(step, **kwargs)

  run.checkpoints.manager.save = save
  with pytest.raises(OSError, match=r"step 10 cannot be saved .*No space left.*same command"):
    finish_training(run)
  resumed = make_trainer(config)
  assert resumed.step == 5
  assert_trees_equal(finish_training(resumed), uninterrupted_result)


def test_profile_writes_trace(tmp_path):
  """A trace of a few steps is written to workdir, which is required."""
  with pytest.raises(InvalidInputError, match="--profile needs --workdir"):
    training.Trainer(Config(), TASK, make_splits(), training.adam(0.1), 20, profile=True)
  config = Config(workdir=str(tmp_path / "run"))
  finish_training(
    training.Trainer(config, TASK, make_splits(), training.adam(0.1), 12, profile=True)
  )  # ends within the profiled steps
  assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
  for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
    assert line["seconds/step"] > line["seconds/input"] >= 0 <= line["seconds/compile"]


def test_finished_run_is_not_retrained(tmp_path, uninterrupted_result):
  config = Config(workdir=str(tmp_path / "run"))
  finish_training(make_trainer(config))
  again = make_trainer(config)
  assert again.step == STEPS
  assert_trees_equal(finish_training(again), uninterrupted_result)


def test_corrupt_checkpoint_falls_back_to_previous(tmp_path, caplog, uninterrupted_result):
  """If the newest checkpoint is truncated, the previous one is restored with a warning; twice."""
  config = Config(workdir=str(tmp_path / "run"))
  finish_training(make_trainer(config))
  steps = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
  for n in (1, 2):
    for path in (tmp_path / "run" / "checkpoints" / str(steps[-1])).rglob("*"):
      if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    resumed = make_trainer(config)
    assert resumed.step == steps[-2]
    assert "cannot be read" in caplog.text
    assert len([*(tmp_path / "run").glob("broken_*")]) == n
    assert_trees_equal(finish_training(resumed), uninterrupted_result)


def test_no_readable_checkpoint_raises(tmp_path):
  config = Config(workdir=str(tmp_path / "run"))
  finish_training(make_trainer(config))
  for step in (tmp_path / "run" / "checkpoints").iterdir():
    shutil.rmtree(step / "default")
  with pytest.raises(InvalidInputError, match="none of the checkpoints"):
    make_trainer(config)


def test_changed_config_raises_with_difference(tmp_path):
  out = str(tmp_path / "run")
  finish_training(make_trainer(Config(workdir=out)))
  with pytest.raises(InvalidInputError, match=r"learning_rate: saved 0\.1, requested 0\.2"):
    make_trainer(Config(workdir=out, learning_rate=0.2))


def test_non_finite_step_raises_and_keeps_last_state(tmp_path):
  """With an infinite learning rate the error names the step, and no checkpoint is overwritten."""
  config = Config(workdir=str(tmp_path / "run"), learning_rate=float("inf"))
  with pytest.raises(DivergedError, match=r"step 1 is skipped.*: w\. .*--learning_rate"):
    finish_training(make_trainer(config))
  assert make_trainer(config).step == 0


def test_test_uses_best_validation_params():
  """The final parameters are worse than the best ones, which are tested."""
  run = make_trainer(Config())
  with run:
    for _ in run.train():
      pass
    best = run.state.best_params
    worst = jax.tree.map(lambda p: -p, best)
    run.state = run.state._replace(
      train_state=run.state.train_state._replace(averaged_params=worst)
    )
    assert run.test()["test/accuracy"] == run.state.best_score


@pytest.mark.parametrize(
  "scores, best",
  [([0.9, np.nan, 0.5, 0.6], 0.9), ([np.nan, 0.5, 0.6, 0.2], 0.6), ([np.nan] * 4, np.nan)],
)
def test_nan_score_does_not_block_best_checkpoint(monkeypatch, scores, best):
  """After a NaN score, a later number is the best one; NaN is best only if there is no number."""
  remaining = iter(scores)
  monkeypatch.setattr("rnnjax.training.trainer.evaluate", lambda *_: {"accuracy": next(remaining)})
  run = training.Trainer(
    Config(), TASK, make_splits(), training.adam(0.1), len(scores), eval_every=1
  )
  params_by_step = {}
  with run:
    for state, _ in run.train():
      params_by_step[int(state.step)] = jax.device_get(state.params)
    last_step = {score: step for step, score in enumerate(scores, 1)}
  np.testing.assert_equal(run.state.best_score, best)
  assert_trees_equal(
    jax.device_get(run.best_params), params_by_step[last_step.get(best, len(scores))]
  )


def test_unknown_score_name_raises():
  with pytest.raises(
    InvalidInputError, match="one of the scores of the task, accuracy; got 'bleu'"
  ):
    training.Trainer(Config(), TASK, make_splits(), training.adam(0.1), STEPS, metric="bleu")


def test_run_outside_main_thread(uninterrupted_result):
  """Signals are handled in the main thread only; training in another thread works without them."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    assert_trees_equal(
      thread.submit(lambda: finish_training(make_trainer(Config()))).result(), uninterrupted_result
    )


def test_experiment_name_of_script(tmp_path):
  """The experiment name of a class that a script defines is the name of its file."""
  path = tmp_path / "study.py"
  path.write_text(
    "import dataclasses\nfrom rnnjax.training import run_dir\n"
    "@dataclasses.dataclass(frozen=True)\nclass Config:\n  seed: int = 0\n"
    "print(run_dir.experiment_name(Config))\n"
  )
  run = subprocess.run(
    [sys.executable, path],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert run.stdout == "study\n", run.stderr


def test_config_json_without_git(tmp_path, monkeypatch):
  """If git is not installed, the commit is "unknown", and training works."""
  monkeypatch.setenv("PATH", str(tmp_path))
  finish_training(make_trainer(Config(workdir=str(tmp_path / "run")), steps=1))
  content = json.loads((tmp_path / "run" / "config.json").read_text())
  assert content["versions"]["commit"] == "unknown"


def test_run_dir_holds_config_versions_and_metrics(tmp_path):
  out = tmp_path / "run"
  finish_training(make_trainer(Config(workdir=str(out))))
  content = json.loads((out / "config.json").read_text())
  assert content["config"] == {"seed": 0, "learning_rate": 0.1}
  assert {"commit", "jax"} <= set(content["versions"])
  lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [5, 10, 12]
  assert {"train/loss", "valid/accuracy"} <= set(lines[0])
  assert list(out.glob("events.*"))

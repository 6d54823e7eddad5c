"""The memory tasks: generated batches, runs over cells and lengths, early stopping."""

import itertools
import json

import numpy as np
import pytest

from experiments import memory
from experiments.memory import Config
from experiments.memory_tasks.data import BASELINE_LOSSES, GeneratedBatches
from rnnjax import training
from rnnjax.types import InvalidInputError

TINY = dict(hidden_size=8, batch_size=8, epochs=1, lengths="6,9")


def test_adding_task():
  """Each half has one mark; the label is the sum of the marked numbers; a guess of 1 scores 1/6."""
  batch = next(GeneratedBatches("adding", 9, 4000, 0, 1).stream())
  numbers, marks = batch["tokens"][..., 0], batch["tokens"][..., 1]
  assert set(np.unique(marks)) == {0, 1}
  np.testing.assert_array_equal(marks[:4].sum(0), 1)
  np.testing.assert_array_equal(marks[4:].sum(0), 1)
  np.testing.assert_allclose(batch["labels"], (numbers * marks).sum(0), rtol=1e-6)
  assert marks.mean(1).min() > 0.1  # every position is marked in some row
  assert np.mean((batch["labels"] - 1) ** 2) == pytest.approx(BASELINE_LOSSES["adding"], rel=0.1)


def test_copy_task():
  """Ten symbols, then T - 1 blanks, then eleven marks; the labels are the symbols."""
  T = 7
  batch = next(GeneratedBatches("copy", T, 500, 0, 1).stream())
  assert batch["tokens"].shape == (T + 20, 500, 10)
  ids = batch["tokens"].argmax(-1)
  np.testing.assert_array_equal(batch["tokens"].sum(-1), 1)
  np.testing.assert_array_equal(ids[:10], batch["labels"])
  assert not ids[10 : 10 + T - 1].any()
  assert (ids[10 + T - 1 :] == 9).all()
  counts = np.bincount(ids[:10].ravel(), minlength=10)
  assert not counts[[0, 9]].any() and counts[1:9].min() > 0.8 * 5000 / 8
  assert BASELINE_LOSSES["copy"] == pytest.approx(np.log(8))


def test_batches_depend_only_on_seed_and_step():
  """The n-th batch is a function of the seed and n, and all batches differ."""
  batches = GeneratedBatches("adding", 5, 3, 0, 4)
  tokens = [batch["tokens"] for batch in batches]
  assert len(tokens) == len(batches) == 4
  np.testing.assert_array_equal(next(batches.stream(2))["tokens"], tokens[2])
  tokens.append(next(GeneratedBatches("adding", 5, 3, 1, 4).stream())["tokens"])
  assert all((a != b).any() for a, b in itertools.combinations(tokens, 2))


def test_run_covers_all_cells_and_lengths(tmp_path, monkeypatch):
  """A run trains every cell on every length and plots two figures; finished parts are not rerun."""
  monkeypatch.setattr(memory, "DEFAULT_CELLS", ("vanilla", "irnn", "lstm"))
  config = Config(**TINY, workdir=str(tmp_path))
  scores = memory.run(config)
  names = {f"test/{name}_{T}" for name in memory.DEFAULT_CELLS for T in (6, 9)}
  assert {name for name in scores if name.startswith("test/")} == names
  assert all(0 < scores[name] < 1 for name in names)
  valid_names = {name.replace("test/", "valid/loss_") for name in names}  # a sweep ranks by these
  assert valid_names == {name for name in scores if name.startswith("valid/")}
  assert {p.name for p in (tmp_path / "figures").iterdir()} == {"lengths.png", "gradients.png"}
  metrics_file = tmp_path / "lstm_6" / "metrics.jsonl"  # has wall times, which would change
  before = metrics_file.read_bytes()
  again = memory.run(Config(**TINY, cell="lstm", workdir=str(tmp_path)))
  assert again.items() <= scores.items() and metrics_file.read_bytes() == before
  json.dumps(scores)


def test_diverged_cell_is_scored_by_last_finite_state(caplog):
  """With an absurd learning rate the program continues and logs why the training stopped."""
  scores = memory.run(
    memory.Config(cell="relu", lengths="5", hidden_size=4, epochs=1, learning_rate=1e38)
  )
  assert "would not be finite" in caplog.text
  assert np.isfinite(scores["test/relu_5"])


def test_training_stops_when_task_is_solved(tmp_path):
  """A GRU solves adding over four steps before the last epoch."""
  flags = dict(
    cell="gru",
    lengths="4",
    hidden_size=16,
    batch_size=32,
    epochs=12,
    target_loss_ratio=0.1,
    ema_decay=0.0,
  )
  scores = memory.run(Config(**flags, learning_rate=1e-2, workdir=str(tmp_path)))
  assert scores["test/gru_4"] < 0.12 * BASELINE_LOSSES["adding"]
  lines = (tmp_path / "gru_4" / "metrics.jsonl").read_text().splitlines()
  assert len(lines) < 12


@pytest.mark.parametrize(
  "options, message",
  [
    (
      dict(lengths="10,x"),
      r"--lengths must be integers of at least 2 .* like 10,30,100; got '10,x'",
    ),
    (dict(lengths="1"), r"got '1'"),
    (dict(data_dir="somewhere"), r"--data_dir must be empty; got 'somewhere'"),
  ],
)
def test_invalid_flags_raise(options, message):
  with pytest.raises(InvalidInputError, match=message):
    memory.run(Config(**options))


def test_gradient_logging_does_not_affect_training(tmp_path):
  """--log_gradients logs gradient norms and spectral radii, and the scores stay the same."""
  flags = dict(cell="vanilla", lengths="4", hidden_size=4, batch_size=8, epochs=1, ema_decay=0.0)
  plain = memory.run(Config(**flags, workdir=str(tmp_path / "plain")))
  assert memory.run(Config(**flags, workdir=str(tmp_path / "logged"), log_gradients=True)) == plain
  (row,) = map(json.loads, (tmp_path / "logged/vanilla_4/metrics.jsonl").read_text().splitlines())
  U = training.load_saved_run(str(tmp_path / "logged/vanilla_4")).params["encoder"]["layer_0"][
    "forward"
  ]["U"]
  radius = np.abs(np.linalg.eigvals(U)).max()
  assert row["radius/encoder/layer_0/forward/U/0"] == pytest.approx(radius, rel=1e-5)
  assert row["train/gradient/encoder/layer_0/forward/U"] > 0

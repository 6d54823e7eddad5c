"""Experiments as one uses them: from the command line, on their embedded data."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import imdb
from experiments.common import runner
from experiments.text_classification import synthetic_reviews
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.types import InvalidInputError

ROOT = pathlib.Path(__file__).parents[3]
TINY = [
  "--dataset=embedded",
  "--epochs=1",
  "--hidden_size=8",
  "--embed_dim=8",
  "--batch_size=32",
  "--num_layers=2",
]


MODULES = ROOT.glob("experiments/*.py")
COMMANDS = [path.stem for path in MODULES if "cli.main(" in path.read_text()]
REACH = """
import importlib, sys
from absl import flags
from experiments.common import cli

class Reached(Exception): pass

def run(config):
  raise Reached

cli.app.run = lambda start: start(flags.FLAGS(sys.argv[:1]))
for name in sys.argv[1:]:
  known = {*flags.FLAGS}
  try:
    cli.main(importlib.import_module("experiments." + name).Config, run)
  except Reached:
    print(name)
  for flag in {*flags.FLAGS} - known:
    delattr(flags.FLAGS, flag)
"""


def imdb_command(*flags):
  return [sys.executable, "-m", "experiments.imdb", *flags]


def run_imdb(*flags):
  return subprocess.run(imdb_command(*flags), capture_output=True, text=True, timeout=300)


def test_every_command_parses_default_flags():
  """With its default flags, from parsing them to the devices."""
  done = subprocess.run(
    [sys.executable, "-c", REACH, *COMMANDS], capture_output=True, text=True, timeout=300
  )
  assert done.stdout.split() == COMMANDS, done.stderr


def test_last_stdout_line_is_json_result(tmp_path):
  """One JSON object, and --workdir holds what it came from."""
  done = run_imdb(*TINY, "--cell=gru", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result["experiment"] == "imdb"
  assert result["dataset"] == "embedded"
  assert result["cell"] == "gru"
  assert 0 <= result["test/accuracy"] <= 1
  assert {"config.json", "metrics.jsonl", "checkpoints"} <= {
    path.name for path in (tmp_path / "run").iterdir()
  }


@pytest.mark.parametrize(
  "flag, words",
  [
    ("--cell=grue", ["--cell=grue", "vanilla|lstm|gru"]),
    ("--hidden_size=-3", ["--hidden_size=-3", "positive"]),
    ("--data_dir=/nowhere", ["must be a folder", "/nowhere"]),
    ("--dropout=1.5", ["--dropout", "less than 1"]),
    ("--pretrained_embeddings=/nowhere", ["--pretrained_embeddings must be a file", "/nowhere"]),
    ("gru", ["--name=value", "gru"]),
  ],
)
def test_invalid_flag_prints_error_without_traceback(flag, words):
  """Exit code not 0, what was expected and what came, and no traceback."""
  done = run_imdb(flag)
  assert done.returncode != 0
  assert "Traceback" not in done.stderr
  for word in words:
    assert word in done.stderr


def test_ctrl_c_saves_checkpoint_and_resumes(tmp_path):
  """Interrupted in training: exit code 130, and the same command goes on from there."""
  out = tmp_path / "run"
  flags = [*TINY, "--epochs=1000", f"--workdir={out}"]
  run = subprocess.Popen(imdb_command(*flags), stderr=subprocess.PIPE, text=True)
  for _ in range(600):
    if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text():
      break
    time.sleep(0.1)
  run.send_signal(signal.SIGINT)
  _, stderr = run.communicate(timeout=60)
  assert run.returncode == 130, stderr
  assert "Traceback" not in stderr
  assert f"which is saved in {out}. The same command resumes there." in stderr
  again = subprocess.Popen(imdb_command(*flags), stderr=subprocess.PIPE, text=True)
  assert any("resuming at step" in line for line in again.stderr)
  again.kill()
  again.communicate()


def test_config_validates_values():
  with pytest.raises(
    InvalidInputError, match=r"--cell must be one of vanilla, lstm, gru, .*; got 'grue'"
  ):
    imdb.Config(cell="grue")
  with pytest.raises(InvalidInputError, match="--batch_size must be at least 1; got 0"):
    imdb.Config(batch_size=0)
  for name, value in dict(
    hidden_size="8", epochs=1.5, learning_rate=None, log_gradients=1, seed=True
  ).items():
    with pytest.raises(InvalidInputError, match=f"--{name} must be of type .*; got"):
      imdb.Config(**{name: value})


def test_every_config_field_has_help():
  for field in dataclasses.fields(imdb.Config):
    assert field.metadata["help"]


@pytest.mark.parametrize("cell", ["vanilla", "lstm", "mingru"])
def test_every_cell_learns_word_order(cell):
  """Every cell, and the GRU below, solves the embedded reviews, on which any bag of words is right
  half the time."""
  config = imdb.Config(cell=cell, dataset="embedded", ngram_order=0, epochs=3, learning_rate=0.01)
  assert imdb.run(config)["test/accuracy"] > 0.95


def test_notes_preset_parameter_count():
  """5000·32 + 4(32·100 + 100² + 100) + 101 = 213,301."""
  vocabulary = Vocabulary(str(n) for n in range(4998))
  model = imdb.build(imdb.Config(**imdb.PRESETS["notes"]), vocabulary, 2)
  tokens, lengths = jnp.zeros((3, 2), int), jnp.array([3, 1])
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, lengths)
  assert sum(p.size for p in jax.tree.leaves(shapes)) == 213_301


@pytest.mark.parametrize("kind", ["onehot", "vectors"])
def test_word_order_learned_from_one_hot_and_pretrained_embeddings(kind, tmp_path):
  """Neither needs a table of its own."""
  words = {"embedding": "onehot"}
  if kind == "vectors":
    draw, known = (
      np.random.default_rng(0),
      synthetic_reviews.POSITIVE_WORDS + synthetic_reviews.NEGATIVE_WORDS + ["not", "but"],
    )
    rows = [" ".join([word, *(f"{x:.4f}" for x in draw.normal(size=8))]) for word in known]
    (tmp_path / "vectors").write_text("\n".join(rows))
    words = {"vectors": str(tmp_path / "vectors")}
  config = imdb.Config(
    cell="gru",
    dataset="embedded",
    ngram_order=0,
    epochs=3,
    learning_rate=0.01,
    pooling="last",
    **words,
  )
  assert imdb.run(config)["test/accuracy"] > 0.95


def test_five_class_reviews(tmp_path):
  """Labels 1 to 5, each told by the number of good words: many classes end to end."""
  draw = np.random.default_rng(0)
  for part, number in (("train", 600), ("test", 100)):
    with open(tmp_path / f"{part}.jsonl", "w") as file:
      for _ in range(number):
        stars = int(draw.integers(1, 6))
        text = draw.permutation(["good"] * stars + ["bad"] * (6 - stars))
        file.write(json.dumps({"text": " ".join(text), "label": stars}) + "\n")
  config = imdb.Config(
    cell="gru",
    data_dir=str(tmp_path),
    batch_size=32,
    epochs=5,
    learning_rate=0.01,
    word_dropout=0.0,
  )
  assert imdb.run(config)["test/accuracy"] > 0.9


def test_long_review_is_truncated(tmp_path):
  """It is read to the end for its n-grams' counts, and cut where it is trained on and tested."""
  huge = "not a good film " * 250_000
  rows = [{"text": f"a {'good' if n % 2 else 'bad'} film", "label": n % 2} for n in range(40)]
  for part in ("train", "test"):
    lines = [json.dumps(row) for row in [*rows, {"text": huge, "label": 1}]]
    (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
  data = imdb.prepare(
    imdb.Config(data_dir=str(tmp_path), batch_size=8, max_train_length=20, max_eval_length=50)
  )
  assert max(batch["lengths"].max() for batch in data.test) == 50
  assert all(len(batch["tokens"]) <= 20 for batch in data.train)
  assert len(data.test.sequences[-1]) == len(data.test.extras["features"][-1]) == 1_000_000


def test_secondary_host_writes_figures_elsewhere(tmp_path, monkeypatch):
  """Its files lie elsewhere, under names from which a library can tell their format."""
  monkeypatch.setattr(runner.hosts, "lead", lambda: False)
  path = runner.figure_file(str(tmp_path / "run"), "face.gif")
  path.write_bytes(b"a picture")
  assert path.name == "face.gif" and not (tmp_path / "run").exists()

"""Training, inference and command line of `experiments.tagging`."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import tagging
from experiments.sequence_tagging import bio_tags, synthetic_sentences
from experiments.sequence_tagging.tagger_predictor import TaggerPredictor
from experiments.tagging import Config
from rnnjax import training
from rnnjax.training import sharding
from rnnjax.training.trainer import Preempted
from rnnjax.types import InvalidInputError
from tests.training.test_train_step import make_batch_mesh
from tests.training.test_trainer import Config as Other
from tests.training.test_trainer import finish_training, make_trainer

SMALL = dict(
  cell="gru",
  hidden_size=8,
  embed_dim=8,
  char_features=4,
  learning_rate=0.02,
  ema_decay=0.9,
  word_dropout=0.0,
  input_dropout=0.0,
  dropout=0.0,
)
SHORT = SMALL | {
  "epochs": 3,
  "batch_size": 8,
  "ema_decay": 0.8,
  "char_encoder": "none",
  "use_extra_columns": True,
}
TEDDY = "Teddy Roosevelt was a great president !"
TIMINGS = ("seconds", "words_per_second")


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory):
  """A tagger of the embedded sentences: its configuration, its scores and what it printed."""
  folder = tmp_path_factory.mktemp("embedded")
  config = Config(
    **SMALL | {"hidden_size": 12}, epochs=2, char_encoder="none", workdir=str(folder / "run")
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = tagging.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def forward_accuracy_limit():
  """Return the best accuracy of any forward model, with IOBES tags."""
  *_, test = synthetic_sentences.generate_splits("ner")
  return synthetic_sentences.max_forward_accuracy(
    (words, bio_tags.to_iobes(tags)) for words, tags in test
  )


def test_bidirectional_exceeds_forward_limit(embedded_run):
  """F1 equals that of seqeval."""
  _, scores, _ = embedded_run
  assert scores["test/accuracy"] > forward_accuracy_limit() + 0.05
  assert scores["test/f1"] == pytest.approx(scores["seqeval"])
  assert scores["dataset"] == "embedded" and scores["task"] == "ner"


def test_forward_model_stays_below_limit(capsys):
  """Without a CRF, which looks back. Its illegal tags are counted as seqeval counts them."""
  config = Config(**SMALL, epochs=1, bidirectional=False, crf=False, char_encoder="none")
  scores = tagging.run(config)
  assert 0.7 < scores["test/accuracy"] <= forward_accuracy_limit() + 1e-6
  assert scores["test/f1"] == pytest.approx(scores["seqeval"])


def test_predict_prints_tagged_sentence(embedded_run, capsys):
  config, _, printed = embedded_run
  assert {line.split()[0] for line in printed.splitlines()} == {"true", "PER", "LOC", "ORG"}
  scores = tagging.run(Config(workdir=config.workdir, predict=TEDDY))
  assert scores == {"tags": "B-PER E-PER O O O O O"}
  first, *_, last = capsys.readouterr().out.splitlines()
  assert first.endswith("Teddy Roosevelt\033[0m[PER] was a great president !")
  assert last.split()[:2] == ["!", "O"]


def test_loaded_model_reproduces_test_accuracy(embedded_run):
  config, scores, _ = embedded_run
  *_, test = synthetic_sentences.generate_splits("ner")
  words, tags = zip(*test)
  predictions = [one.tags for one in tagging.load(config.workdir)(words)]
  correct = [
    a == b for one, two in zip(predictions, tags) for a, b in zip(one, bio_tags.to_iobes(two))
  ]
  assert scores["test/accuracy"] == pytest.approx(np.mean(correct))


def test_load_rejects_other_experiments(tmp_path):
  """A folder without a run, and a run of another experiment."""
  with pytest.raises(InvalidInputError, match="is not the --workdir of a run"):
    tagging.run(Config(workdir="/nowhere", predict=TEDDY))
  finish_training(make_trainer(Other(workdir=str(tmp_path / "run"))))
  with pytest.raises(InvalidInputError, match="is the --workdir of another experiment"):
    tagging.load(str(tmp_path / "run"))


POOLS = (["alpha", "beta", "gamma", "delta"], ["quark", "squad", "quiz", "quid"])


def write_tagged_files(folder, task, extra=""):
  """Write files in which the column before the tag, or the q of a word (pos), determines the tag.

  A random bit decides for each word whether it is in a span. Adjacent span words form one span."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for split, num_sentences in (("train", 160), ("valid", 40), ("test", 40)):
    text = ""
    for _ in range(num_sentences):
      for coin in rng.integers(0, 2, rng.integers(2, 8)):
        word = rng.choice(POOLS[coin if task == "pos" else rng.integers(2)])
        row = {
          "pos": [word, ("NOUN", "VERB")[coin]],
          "chunk": [word, ("VB", "NN")[coin], ("O", "I-NP")[coin]],
          "ner": [word, "X", ("B-VP", "B-NP")[coin], ("O", "I-PER")[coin]],
        }
        text += " ".join(row[task]) + "\n"
      text += "\n"
    (folder / f"{split}.txt").write_text(text + extra * (split == "test"))
  return str(folder)


@pytest.fixture(scope="module")
def ner_run(tmp_path_factory):
  """A tagger of names that reads extra columns: its configuration and scores."""
  folder = tmp_path_factory.mktemp("names")
  config = Config(
    **SHORT,
    task="ner",
    data_dir=write_tagged_files(folder / "data", "ner"),
    workdir=str(folder / "run"),
  )
  return config, tagging.run(config)


def test_extra_columns_are_learned(ner_run):
  """They must then be given for prediction, too."""
  config, scores = ner_run
  assert scores["test/accuracy"] > 0.95 and scores["test/f1"] > 0.9
  predictor = tagging.load(config.workdir)
  (prediction,) = predictor([["alpha", "quiz", "new"]], [[["X"] * 3, ["B-NP", "B-NP", "B-VP"]]])
  assert prediction.tags == ["B-PER", "E-PER", "O"]
  with pytest.raises(
    InvalidInputError, match=r"reads 2 columns in addition to the words.* --use_extra_columns=false"
  ):
    tagging.run(Config(workdir=config.workdir, predict="alpha quiz"))


def test_resumed_run_equals_uninterrupted_run(ner_run, tmp_path, monkeypatch):
  """Interrupted within an epoch: scores and parameters are bitwise equal."""
  config, scores = ner_run
  config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
  train = training.Trainer.train

  def train_until_sigterm(run):
    for state, metrics in train(run):
      if int(state.step) == 13:
        os.kill(os.getpid(), signal.SIGTERM)
      yield state, metrics

  with monkeypatch.context() as patch:
    patch.setattr(training.Trainer, "train", train_until_sigterm)
    with pytest.raises(Preempted):
      tagging.run(config)
  resumed = tagging.run(config)
  assert resumed.keys() == scores.keys()
  for name in scores.keys() - TIMINGS:
    assert resumed[name] == scores[name]
  jax.tree.map(
    np.testing.assert_array_equal,
    *(training.load_saved_run(one.workdir).params for one in (config, ner_run[0])),
  )


def test_chunking_with_pretrained_embeddings(tmp_path):
  """The run can be loaded without the file of vectors.

  The validation set has no span, so that its F1 is NaN. The trained parameters are kept, not the
  initial ones."""
  path, rng = tmp_path / "vectors.txt", np.random.default_rng(0)
  vectors = {word: rng.normal(size=5).round(3) for word in [*POOLS[0], *POOLS[1], "other"]}
  path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in vectors.items()))
  config = Config(
    **SHORT | {"char_encoder": "convolution"},
    task="chunk",
    pretrained_embeddings=str(path),
    data_dir=write_tagged_files(tmp_path / "data", "chunk"),
    workdir=str(tmp_path / "run"),
  )
  (tmp_path / "data" / "valid.txt").write_text("alpha VB O\n")
  data = tagging.prepare(config)
  ids = data.lexicon.words.encode(vectors)
  embed = tagging.build(config, data.lexicon).embedding
  table = embed.init_with_output(jax.random.key(0), ids)[0]
  np.testing.assert_allclose(table[:-1], [vectors[word] for word in vectors if word != "other"])
  scores = tagging.run(config)
  assert scores["test/accuracy"] > 0.8
  path.unlink()
  predictor = tagging.load(config.workdir)
  assert isinstance(predictor, TaggerPredictor)
  predictions = predictor(
    [s.words for s in data.dataset.test], [s.columns for s in data.dataset.test]
  )
  correct = [
    a == b for s, one in zip(data.dataset.test, predictions) for a, b in zip(s.tags, one.tags)
  ]
  assert scores["test/accuracy"] == pytest.approx(np.mean(correct))


def run_tagging(*flags):
  return subprocess.run(
    [sys.executable, "-m", "experiments.tagging", *flags],
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope="module")
def pos_run(tmp_path_factory):
  """A tagger of parts of speech, trained from the command line: its --workdir and process."""
  folder = tmp_path_factory.mktemp("spoken")
  data = write_tagged_files(folder / "data", "pos", extra="hum INTJ\n")
  options = SHORT | {"char_encoder": "recurrent", "char_features": 8, "word_dropout": 0.5}
  options |= dict(epochs=5, use_extra_columns=False, task="pos")
  options |= dict(data_dir=data, workdir=str(folder / "run"))
  return str(folder / "run"), run_tagging(*(f"--{name}={value}" for name, value in options.items()))


def test_command_line_result(pos_run):
  """The last line of stdout is one JSON object, without F1: the tags are not of spans."""
  _, process = pos_run
  assert process.returncode == 0, process.stderr
  result = json.loads(process.stdout.splitlines()[-1])
  assert result["experiment"] == "tagging" and result["task"] == "pos"
  assert "test/f1" not in result and "seqeval" not in result


def test_tag_missing_from_training_counts_as_wrong(pos_run):
  """A warning names the tag."""
  _, process = pos_run
  assert "['INTJ']" in process.stderr and "never be predicted" in process.stderr
  (row,) = [line.split() for line in process.stdout.splitlines() if line.startswith("INTJ")]
  assert row[:3] == ["INTJ", "1", "0.000"] and row[-1] == "1"
  assert 0.95 < json.loads(process.stdout.splitlines()[-1])["test/accuracy"] < 1


def test_loaded_model_keeps_its_task(pos_run, capsys):
  """The task comes from the saved configuration. An unknown word is tagged by its characters."""
  workdir, _ = pos_run
  scores = tagging.run(Config(workdir=workdir, predict="quip alpha"))
  assert scores == {"tags": "VERB NOUN"}
  first, *rows = capsys.readouterr().out.splitlines()
  assert "quip\033[0m[VERB]" in first and "alpha\033[0m[NOUN]" in first
  assert [row.split()[:2] for row in rows] == [["quip", "VERB"], ["alpha", "NOUN"]]


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(predict=TEDDY), r"is not the --workdir of a run|--predict needs --workdir"),
    (dict(task="names"), r"--task must be one of pos, ner, chunk; got 'names'"),
    (dict(char_encoder="letters"), r"--char_encoder must be one of convolution, recurrent, none"),
    (dict(char_features=1), r"--char_features must be at least 2; got 1"),
    (dict(dropout=1.0), r"--dropout must be less than 1; got 1"),
    (
      dict(pretrained_embeddings="/nowhere"),
      r"--pretrained_embeddings must be a file; '/nowhere' does not exist",
    ),
    (dict(batch_size=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(data_dir="/nowhere"), r"--data_dir must be a folder or a \.zip .*got '/nowhere'"),
    (dict(dataset="files"), r"--data_dir must be a folder"),
  ],
)
def test_invalid_flags_raise(options, words):
  """The message names the flag."""
  with pytest.raises(InvalidInputError, match=words):
    tagging.run(Config(**SMALL | options))


def test_all_splits_shard_over_three_devices():
  """--batch_size=6 is divisible by three devices, and so are the batches of the other sets."""
  data = tagging.prepare(Config(batch_size=6))
  for split in (data.train, data.valid, data.test):
    sharding.shard_batch(make_batch_mesh(3), next(iter(split)))

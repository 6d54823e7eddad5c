"""The tagger as one uses it: what it learns, from which files, saved, loaded, asked and refused."""

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
SHORT = SMALL | {"epochs": 3, "batch": 8, "average": 0.8, "spelling": "none", "columns": True}
TEDDY = "Teddy Roosevelt was a great president !"
MEASURED = ("seconds", "words_per_second")


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory):
  """A tagger of the embedded sentences: its configuration, scores and what it printed."""
  folder = tmp_path_factory.mktemp("teddies")
  config = Config(
    **SMALL | {"hidden": 12},
    epochs=2,
    char_encoder="none",
    workdir=str(folder / "run"),
    predict=TEDDY,
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = tagging.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def forward_accuracy_limit():
  """That of IOBES, which reading forward cannot exceed."""
  *_, test = synthetic_sentences.generate_splits("ner")
  return synthetic_sentences.max_forward_accuracy(
    (words, bio_tags.to_iobes(tags)) for words, tags in test
  )


def test_bidirectional_exceeds_forward_limit(embedded_run):
  """Than whatever reads forward; and our F1 is seqeval's."""
  _, scores, _ = embedded_run
  assert scores["test/accuracy"] > forward_accuracy_limit() + 0.05
  assert scores["test/f1"] == pytest.approx(scores["seqeval"])
  assert scores["dataset"] == "embedded" and scores["task"] == "ner"


def test_forward_model_stays_below_limit(capsys):
  """Without a last layer that looks back. Illegal tags of it count as seqeval counts them."""
  config = Config(**SMALL, epochs=1, bidirectional=False, crf=False, char_encoder="none")
  scores = tagging.run(config)
  assert 0.7 < scores["test/accuracy"] <= forward_accuracy_limit() + 1e-6
  assert scores["test/f1"] == pytest.approx(scores["seqeval"])


def test_loaded_model_tags_same_sentence(embedded_run, capsys):
  """After training, and by --load from what was saved: the same, to the last digit."""
  config, scores, printed = embedded_run
  *table, first, _, _, _, _, _, _, last = printed.splitlines()
  assert {line.split()[0] for line in table} == {"true", "PER", "LOC", "ORG"}
  assert first.endswith("Teddy Roosevelt\033[0m[PER] was a great president !")
  assert last.split()[:2] == ["!", "O"]
  assert scores["tags"] == "B-PER E-PER O O O O O"
  assert tagging.run(Config(load=config.workdir, predict=TEDDY)) == {"tags": scores["tags"]}
  again = capsys.readouterr().out.splitlines()
  assert again == printed.splitlines()[-8:]


def test_loaded_model_reproduces_test_accuracy(embedded_run):
  config, scores, _ = embedded_run
  *_, test = synthetic_sentences.generate_splits("ner")
  words, tags = zip(*test)
  found = [one.tags for one in tagging.load(config.workdir)(words)]
  right = [a == b for one, two in zip(found, tags) for a, b in zip(one, bio_tags.to_iobes(two))]
  assert scores["test/accuracy"] == pytest.approx(np.mean(right))


def test_load_rejects_other_experiments(tmp_path):
  """No run at all, and a run of another kind."""
  with pytest.raises(InvalidInputError, match="is not the --workdir of a run"):
    tagging.run(Config(load="/nowhere", predict=TEDDY))
  finish_training(make_trainer(Other(workdir=str(tmp_path / "run"))))
  with pytest.raises(InvalidInputError, match="is the --workdir of another experiment"):
    tagging.load(str(tmp_path / "run"))


POOLS = (["alpha", "beta", "gamma", "delta"], ["quark", "squad", "quiz", "quid"])


def write_tagged_files(folder, task, extra=""):
  """In the column before the tag a coin for each word decides it, or its q for parts of speech.

  Where the coin falls on 1, there is a span, which goes on with the next.
  """
  draw = np.random.default_rng(0)
  folder.mkdir()
  for part, number in (("train", 160), ("valid", 40), ("test", 40)):
    text = ""
    for _ in range(number):
      for coin in draw.integers(0, 2, draw.integers(2, 8)):
        word = draw.choice(POOLS[coin if task == "pos" else draw.integers(2)])
        row = {
          "pos": [word, ("NOUN", "VERB")[coin]],
          "chunk": [word, ("VB", "NN")[coin], ("O", "I-NP")[coin]],
          "ner": [word, "X", ("B-VP", "B-NP")[coin], ("O", "I-PER")[coin]],
        }
        text += " ".join(row[task]) + "\n"
      text += "\n"
    (folder / f"{part}.txt").write_text(text + extra * (part == "test"))
  return str(folder)


@pytest.fixture(scope="module")
def ner_run(tmp_path_factory):
  """A tagger of names that reads columns beside the words: its configuration and scores."""
  folder = tmp_path_factory.mktemp("names")
  config = Config(
    **SHORT,
    task="ner",
    data_dir=write_tagged_files(folder / "data", "ner"),
    workdir=str(folder / "run"),
  )
  return config, tagging.run(config)


def test_extra_columns_are_learned(ner_run):
  """Of four columns, and asked for tags it must be given them, too."""
  config, scores = ner_run
  assert scores["test/accuracy"] > 0.95 and scores["test/f1"] > 0.9
  labeller = tagging.load(config.workdir)
  (one,) = labeller([["alpha", "quiz", "new"]], [[["X"] * 3, ["B-NP", "B-NP", "B-VP"]]])
  assert one.tags == ["B-PER", "E-PER", "O"]
  with pytest.raises(
    InvalidInputError, match=r"reads 2 columns beside the words.* --use_extra_columns=false"
  ):
    tagging.run(Config(load=config.workdir, predict="alpha quiz"))


def test_resumed_run_equals_uninterrupted_run(ner_run, tmp_path, monkeypatch):
  """Stopped in the middle of an epoch: bit for bit the same scores and parameters."""
  config, scores = ner_run
  config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
  train = training.Trainer.train

  def stopped(run):
    for state, metrics in train(run):
      if int(state.step) == 13:
        os.kill(os.getpid(), signal.SIGTERM)
      yield state, metrics

  with monkeypatch.context() as patch:
    patch.setattr(training.Trainer, "train", stopped)
    with pytest.raises(Preempted):
      tagging.run(config)
  again = tagging.run(config)
  assert again.keys() == scores.keys()
  for name in scores.keys() - MEASURED:
    assert again[name] == scores[name]
  jax.tree.map(
    np.testing.assert_array_equal,
    *(training.load_saved_run(one.out).params for one in (config, ner_run[0])),
  )


def test_chunking_with_pretrained_embeddings(tmp_path):
  """The table begins with those of the file; the run is loaded although the file is gone.

  No span stands in the validation part, where F1 is no number: what was trained is kept all the
  same, and not what was drawn first.
  """
  path, draw = tmp_path / "vectors.txt", np.random.default_rng(0)
  given = {word: draw.normal(size=5).round(3) for word in [*POOLS[0], *POOLS[1], "other"]}
  path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in given.items()))
  config = Config(
    **SHORT | {"spelling": "convolution"},
    task="chunk",
    pretrained_embeddings=str(path),
    data_dir=write_tagged_files(tmp_path / "data", "chunk"),
    workdir=str(tmp_path / "run"),
  )
  (tmp_path / "data" / "valid.txt").write_text("alpha VB O\n")
  data = tagging.prepare(config)
  ids = data.lexicon.words.encode(given)
  embed = tagging.build(config, data.lexicon).embedding
  table = embed.init_with_output(jax.random.key(0), ids)[0]
  np.testing.assert_allclose(table[:-1], [given[word] for word in given if word != "other"])
  scores = tagging.run(config)
  assert scores["test/accuracy"] > 0.8
  path.unlink()
  labeller = tagging.load(config.workdir)
  assert isinstance(labeller, TaggerPredictor)
  found = labeller([s.words for s in data.text.test], [s.columns for s in data.text.test])
  right = [a == b for s, one in zip(data.text.test, found) for a, b in zip(s.tags, one.tags)]
  assert scores["test/accuracy"] == pytest.approx(np.mean(right))


def run_tagging(*flags):
  return subprocess.run(
    [sys.executable, "-m", "experiments.tagging", *flags],
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope="module")
def pos_run(tmp_path_factory):
  """A tagger of parts of speech, trained from the command line: its --workdir and the process."""
  folder = tmp_path_factory.mktemp("spoken")
  data = write_tagged_files(folder / "data", "pos", extra="hum INTJ\n")
  options = SHORT | {"spelling": "recurrent", "filters": 8, "word_dropout": 0.5}
  options |= dict(epochs=5, use_extra_columns=False, task="pos", predict="quip alpha")
  options |= dict(data_dir=data, workdir=str(folder / "run"))
  return str(folder / "run"), run_tagging(*(f"--{name}={value}" for name, value in options.items()))


def test_command_line_result(pos_run):
  """A word never seen is told by its spelling; the last line of stdout is one JSON object."""
  _, done = pos_run
  assert done.returncode == 0, done.stderr
  *printed, last = done.stdout.splitlines()
  result = json.loads(last)
  assert result["experiment"] == "tagging" and result["task"] == "pos"
  assert result["tags"] == "VERB NOUN"
  assert [line.split()[:2] for line in printed[-2:]] == [["quip", "VERB"], ["alpha", "NOUN"]]
  assert "test/f1" not in result and "seqeval" not in result


def test_tag_missing_from_training_counts_as_wrong(pos_run):
  """Is warned of, and counts as wrong."""
  _, done = pos_run
  assert "['INTJ']" in done.stderr and "will be missed" in done.stderr
  (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("INTJ")]
  assert row[:3] == ["INTJ", "1", "0.000"] and row[-1] == "1"
  assert 0.95 < json.loads(done.stdout.splitlines()[-1])["test/accuracy"] < 1


def test_loaded_model_keeps_its_task(pos_run, capsys):
  """Parts of speech are coloured as such, without its being said again."""
  out, done = pos_run
  tagging.run(Config(load=out, predict="quip alpha"))
  assert capsys.readouterr().out.splitlines() == done.stdout.splitlines()[-4:-1]


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(use_extra_columns=True, predict=TEDDY), r"--predict .*--use_extra_columns=false"),
    (dict(task="names"), r"--task must be one of pos, ner, chunk; got 'names'"),
    (dict(char_encoder="letters"), r"--char_encoder must be one of convolution, recurrent, none"),
    (dict(char_features=1), r"--char_features must be at least 2; got 1"),
    (dict(dropout=1.0), r"--dropout must be less than 1; got 1"),
    (
      dict(pretrained_embeddings="/nowhere"),
      r"--pretrained_embeddings must be a file; there is none at '/nowhere'",
    ),
    (dict(batch_size=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(data_dir="/nowhere"), r"--data_dir must be a folder or a \.zip .*got '/nowhere'"),
    (dict(dataset="files"), r"--data_dir must be a folder"),
  ],
)
def test_invalid_flags_raise(options, words):
  """Each by a sentence that names the flag."""
  with pytest.raises(InvalidInputError, match=words):
    tagging.run(Config(**SMALL | options))


def test_all_splits_shard_over_three_devices():
  """Three devices, onto which --batch_size=6 fits, are not stopped by the other parts."""
  data = tagging.prepare(Config(batch_size=6))
  for part in (data.train, data.valid, data.test):
    sharding.shard_batch(make_batch_mesh(3), next(iter(part)))

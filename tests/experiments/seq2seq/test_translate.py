"""Translation: attention, files, scores, resuming, saved models and invalid flags."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import sacrebleu
from matplotlib.image import imread

from experiments import translate
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from experiments.translate import Config
from rnnjax import training
from rnnjax.training.trainer import Preempted
from rnnjax.types import InvalidInputError
from tests.training.test_trainer import Config as Other
from tests.training.test_trainer import finish_training, make_trainer

TINY = dict(
  hidden_size=8,
  embed_dim=8,
  batch_size=8,
  epochs=1,
  learning_rate=0.02,
  ema_decay=0.9,
  tokenizer="word",
  beam_size=2,
  source_language="en",
  target_language="xx",
  dropout=0.1,
)
PAIRS = {"one": "un", "two": "du", "three": "tri", "cats": "katoj", "dogs": "hundoj", "see": "vidi"}
MEASURED = ("seconds", "search_seconds", "tokens_per_second", "words_per_second")


def write_parallel_files(folder, cut=0):
  """Write line-aligned files: word by word translations in reverse order.

  The target file of the test set lacks the last `cut` lines.
  """
  rng = np.random.default_rng(0)
  folder.mkdir()
  for split, num_rows in (("train", 64), ("val", 16), ("test", 16)):
    sources = [rng.choice([*PAIRS], rng.integers(1, 6)) for _ in range(num_rows)]
    targets = [" ".join(PAIRS[word] for word in words[::-1]) for words in sources]
    if split == "test":
      targets = targets[: num_rows - cut]
    (folder / f"{split}.en").write_text("".join(" ".join(words) + " .\n" for words in sources))
    (folder / f"{split}.xx").write_text("".join(text + " .\n" for text in targets))
  return str(folder)


@pytest.fixture(scope="module")
def translate_run(tmp_path_factory):
  """A run on parallel files: its configuration, scores and stdout."""
  folder = tmp_path_factory.mktemp("esperanto")
  config = Config(
    **TINY,
    data_dir=write_parallel_files(folder / "data"),
    workdir=str(folder / "run"),
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = translate.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def test_attention_lowers_loss():
  """On the generated translations, attention has a lower loss than one vector."""
  text = pairs_data.load("embedded", "", "", "", "translations")
  text = text._replace(train=text.train[:1200], valid=text.valid[:64], test=text.test[:64])
  flags = TINY | dict(
    hidden_size=16, embed_dim=16, batch_size=16, epochs=2, learning_rate=0.03, dropout=0.0
  )
  loss = {
    name: seq2seq_common.load_or_train(Config(**flags, attention=name), text)[1]["test/loss"]
    for name in ("none", "general")
  }
  assert loss["general"] < 0.8 * loss["none"], loss


def test_bleu_and_loss_of_run(translate_run):
  """BLEU is that of the written predictions; the loss is in nats per token."""
  config, scores, _ = translate_run
  path = pathlib.Path(config.workdir) / "written.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  text = pairs_data.load_parallel(config.data_dir, "en", "xx")
  assert [(row["source"], row["target"]) for row in rows] == text.test
  predictions = [row["written"] for row in rows]
  bleu = sacrebleu.corpus_bleu(predictions, [[row["target"] for row in rows]], force=True)
  assert scores["test/bleu"] == bleu.score and "tok:13a" in scores["signature"]
  assert 0 < scores["test/loss"] < 0.97 * np.log(11) and scores["dataset"] == "data en-xx"
  loaded_predictions = translate.load(config.workdir)(
    [source for source, _ in text.test], beam_size=config.beam_size
  )
  assert loaded_predictions == predictions


def test_lower_case_bleu():
  """With --lowercase, BLEU ignores case and its signature says so."""
  rows = [("a cat sits on the mat", "Eine Katze sitzt auf der Matte")]

  def predictor(texts, **options):
    return [target.lower() for _, target in rows]

  scores = translate.evaluate_bleu(Config(lowercase=True), predictor, rows)
  assert scores["test/bleu"] == pytest.approx(100) and "case:lc" in scores["signature"]
  assert translate.evaluate_bleu(Config(), predictor, rows)["test/bleu"] < 50


def test_long_text_has_no_attention_figure(translate_run, tmp_path):
  """The prediction is printed, but no figure of gigabytes is drawn."""
  long = dict(predict="two cats . " * 300, max_length=3, beam_size=1)
  scores = translate.run(Config(ensemble=translate_run[0].workdir, workdir=str(tmp_path), **long))
  assert scores["written"]
  assert not (tmp_path / "figures").exists()


def test_loaded_model_translates_same_sentence(translate_run, tmp_path, capsys):
  """--predict prints and plots the same as after training, by --workdir and by --ensemble."""
  config, scores, printed = translate_run
  assert printed.splitlines() == [scores["written"]]
  drawn = imread(pathlib.Path(config.workdir) / "figures" / "attention.png")
  sentence = pairs_data.load_parallel(config.data_dir, "en", "xx").test[0][0]
  shutil.copytree(config.workdir, tmp_path / "run")
  (tmp_path / "run" / "figures" / "attention.png").unlink()
  for flags in (
    dict(workdir=str(tmp_path / "run")),
    dict(ensemble=config.workdir, workdir=str(tmp_path)),
  ):
    loaded = Config(**flags, predict=sentence, beam_size=2)
    assert translate.run(loaded) == {"written": scores["written"]}
    assert capsys.readouterr().out == printed
    figure = imread(pathlib.Path(loaded.workdir) / "figures" / "attention.png")
    np.testing.assert_array_equal(figure, drawn)


def test_resumed_run_equals_uninterrupted_run(translate_run, tmp_path, monkeypatch, capsys):
  """A run stopped within an epoch ends with the same scores and parameters, bit for bit."""
  config, scores, _ = translate_run
  config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
  train = training.Trainer.train

  def train_and_stop(trainer):
    for state, metrics in train(trainer):
      if int(state.step) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      yield state, metrics

  with monkeypatch.context() as patch:
    patch.setattr(training.Trainer, "train", train_and_stop)
    with pytest.raises(Preempted):
      translate.run(config)
  resumed_scores = translate.run(config)
  assert resumed_scores.keys() == scores.keys()
  for name in scores.keys() - MEASURED:
    assert resumed_scores[name] == scores[name], name
  jax.tree.map(
    np.testing.assert_array_equal,
    *(training.load_saved_run(c.workdir).params for c in (config, translate_run[0])),
  )


@pytest.fixture(scope="module")
def no_attention_run(translate_run, tmp_path_factory):
  """A run without attention, from the command line: its --workdir and the process."""
  workdir = str(tmp_path_factory.mktemp("no_attention") / "run")
  options = TINY | dict(
    attention="none", data_dir=translate_run[0].data_dir, workdir=workdir, beam_size=1
  )
  process = subprocess.run(
    [sys.executable, "-m", "experiments.translate", *(f"--{k}={v}" for k, v in options.items())],
    capture_output=True,
    text=True,
    timeout=300,
  )
  return workdir, process


def test_command_line_result(no_attention_run):
  """The last line of stdout is one JSON object; without attention there is no figure."""
  workdir, process = no_attention_run
  assert process.returncode == 0, process.stderr
  written, last = process.stdout.splitlines()
  result = json.loads(last)
  assert result["experiment"] == "translate" and result["written"] == written
  assert {"test/bleu", "test/loss", "signature", "search_seconds"} <= result.keys()
  assert not (pathlib.Path(workdir) / "figures").exists()


def test_loaded_model_without_attention_has_no_figure(no_attention_run, tmp_path, capsys):
  """The saved model decides whether there is attention, not the flags."""
  workdir, _ = no_attention_run
  translate.run(Config(workdir=workdir, predict="two cats ."))
  assert not (pathlib.Path(workdir) / "figures").exists()


def test_coverage_attention_trains_and_decodes(translate_run, capsys):
  """With input feeding, a run trains and translates."""
  text = pairs_data.load_parallel(translate_run[0].data_dir, "en", "xx")
  config = Config(**TINY, attention="coverage", input_feeding=True)
  predictor, scores = seq2seq_common.load_or_train(config, text)
  assert scores["test/loss"] < 0.97 * np.log(11)
  assert len(predictor([source for source, _ in text.test])) == 16


def test_blank_sentence_raises(translate_run):
  with pytest.raises(InvalidInputError, match="--predict"):
    translate.run(Config(workdir=translate_run[0].workdir, predict="  "))


def test_load_rejects_other_experiments(tmp_path):
  """A folder without a run, a run of another experiment, and no folder raise."""
  with pytest.raises(InvalidInputError, match="is not the --workdir of a run"):
    translate.run(Config(workdir="/nowhere", predict="a"))
  with pytest.raises(InvalidInputError, match="--predict needs --workdir or --ensemble"):
    translate.run(Config(predict="a"))
  finish_training(make_trainer(Other(workdir=str(tmp_path / "run"))))
  with pytest.raises(InvalidInputError, match="is the --workdir of another experiment"):
    translate.load(str(tmp_path / "run"))


@pytest.fixture
def forbid_training(monkeypatch):
  """Fail the test if a trainer is created."""
  monkeypatch.setattr(training.Trainer, "__init__", lambda *_, **__: pytest.fail("it trains"))


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(attention="none", input_feeding=True), "feed.*=True needs"),
    (dict(attention="coverage"), r"coverage=True\) needs .*feed.*=True"),
    (dict(attention="multi_head", hidden_size=6), "heads that divide"),
    (dict(copy_attention=True), "--copy_attention needs --shared_vocab"),
    (dict(coverage_penalty=1.0), "--coverage_penalty needs --attention=coverage; got general"),
    (dict(attention="softly"), r"--attention must be one of none, .*; got 'softly'"),
    (dict(tokenizer="letters"), r"--tokenizer must be one of bpe, word, character"),
    (dict(beam_size=0), r"--beam_size must be at least 1; got 0"),
    (dict(beam_size=500), r"beam(_size)? must be at most \d+, the size of the vocabulary; got 500"),
    (dict(predict=" "), "--predict must be a text"),
    (dict(scheduled_sampling_prob=1.0), r"--scheduled_sampling_prob must be less than 1; got 1"),
    (dict(tokenizer="bpe", vocab_size=9), r"size must be at least \d+.*got 9"),
    (dict(batch_size=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(target_language="de"), r"must hold one pair of files train\*\.en and train\*\.de"),
    (dict(data_dir="/nowhere"), r"--data_dir must be .*got '/nowhere'"),
    (dict(dataset="files", data_dir=""), r"--data_dir must be "),
  ],
  ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_invalid_flags_raise_before_training(translate_run, forbid_training, options, message):
  """The message says which values are valid."""
  with pytest.raises(InvalidInputError, match=message):
    translate.run(Config(**TINY | {"data_dir": translate_run[0].data_dir} | options))


@pytest.mark.parametrize(
  "options",
  [dict(attention="none", input_feeding=True), dict(copy_attention=True)],
  ids=["feed", "copy"],
)
def test_incompatible_flags_raise_before_tokenizing(monkeypatch, options):
  """Training a tokenizer on a large corpus takes minutes."""
  monkeypatch.setattr(seq2seq_common, "prepare", lambda *_: pytest.fail("it tokenizes"))
  with pytest.raises(InvalidInputError, match="needs"):
    translate.run(Config(**TINY | options))


def test_training_set_without_pairs_raises(tmp_path, forbid_training):
  """Every line lacks one side or the other."""
  folder = pathlib.Path(write_parallel_files(tmp_path / "data"))
  (folder / "train.en").write_text("one\n\n")
  (folder / "train.xx").write_text("\nunu\n")
  with pytest.raises(InvalidInputError, match=r"train\.en and .*train\.xx have no line"):
    translate.run(Config(**TINY, data_dir=str(folder)))


def test_unaligned_files_raise(tmp_path, forbid_training):
  """The message names both files and their numbers of lines."""
  with pytest.raises(
    InvalidInputError, match=r"test\.en and .*test\.xx must have the same number .* 16 and 14"
  ):
    translate.run(Config(**TINY, data_dir=write_parallel_files(tmp_path / "data", cut=2)))

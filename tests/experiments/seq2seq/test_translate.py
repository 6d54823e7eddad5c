"""Translation as one uses it: what attention is worth, files, saved, loaded, asked and refused."""

import contextlib
import dataclasses
import json
import os
import pathlib
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
  """Line-aligned: each word by itself, in reverse; `cut` lines of the test part lack a side."""
  draw = np.random.default_rng(0)
  folder.mkdir()
  for part, number in (("train", 64), ("val", 16), ("test", 16)):
    rows = [draw.choice([*PAIRS], draw.integers(1, 6)) for _ in range(number)]
    there = [" ".join(PAIRS[word] for word in row[::-1]) for row in rows]
    there = there[: number - cut * (part == "test")]
    (folder / f"{part}.en").write_text("".join(" ".join(row) + " .\n" for row in rows))
    (folder / f"{part}.xx").write_text("".join(row + " .\n" for row in there))
  return str(folder)


@pytest.fixture(scope="module")
def translate_run(tmp_path_factory):
  """A translator of parallel files: its configuration, scores and what it printed."""
  folder = tmp_path_factory.mktemp("esperanto")
  config = Config(
    **TINY,
    data_dir=write_parallel_files(folder / "data"),
    workdir=str(folder / "run"),
    predict="two cats .",
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = translate.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def test_attention_lowers_loss():
  """What a bottleneck loses of the generated translations, attention has."""
  text = pairs_data.load("embedded", "", "", "", "translations")
  text = text._replace(train=text.train[:1200], valid=text.valid[:64], test=text.test[:64])
  how = TINY | dict(
    hidden_size=16, embed_dim=16, batch_size=16, epochs=2, learning_rate=0.03, dropout=0.0
  )
  loss = {
    kind: seq2seq_common.load_or_train(Config(**how, attention=kind), text)[1]["test/loss"]
    for kind in ("none", "general")
  }
  assert loss["general"] < 0.8 * loss["none"], loss


def test_bleu_and_loss_of_run(translate_run):
  """BLEU is that of what was written beside the references; the loss is of words, in nats."""
  config, scores, _ = translate_run
  path = pathlib.Path(config.workdir) / "written.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  text = pairs_data.load_parallel(config.data_dir, "en", "xx")
  assert [(row["source"], row["target"]) for row in rows] == text.test
  sides = [row["written"] for row in rows], [[row["target"] for row in rows]]
  bleu = sacrebleu.corpus_bleu(*sides, force=True)
  assert scores["test/bleu"] == bleu.score and "tok:13a" in scores["signature"]
  assert 0 < scores["test/loss"] < 0.97 * np.log(11) and scores["dataset"] == "data en-xx"
  again = translate.load(config.workdir)(
    [source for source, _ in text.test], width=config.beam_size
  )
  assert again == sides[0]


def test_lower_case_bleu():
  """BLEU of what is written in lower case is that of references in lower case, and says so."""
  rows = [("a cat sits on the mat", "Eine Katze sitzt auf der Matte")]
  speak = lambda texts, **how: [true.lower() for _, true in rows]
  scores = translate.evaluate_bleu(Config(lowercase=True), speak, rows)
  assert scores["test/bleu"] == pytest.approx(100) and "case:lc" in scores["signature"]
  assert translate.evaluate_bleu(Config(), speak, rows)["test/bleu"] < 50


def test_long_text_has_no_attention_figure(translate_run, tmp_path):
  """What it says is printed, and no picture of gigabytes is drawn."""
  long = dict(predict="two cats . " * 300, max_length=3, beam_size=1)
  assert translate.run(Config(ensemble=translate_run[0].out, workdir=str(tmp_path), **long))[
    "written"
  ]
  assert not (tmp_path / "figures").exists()


def test_loaded_model_translates_same_sentence(translate_run, tmp_path, capsys):
  """It is translated after training, and by --ensemble the same; what it attended to is drawn."""
  config, scores, printed = translate_run
  assert printed.splitlines() == [scores["written"]]
  drawn = imread(pathlib.Path(config.workdir) / "figures" / "attention.png")
  loaded = Config(
    source_language="en",
    target_language="xx",
    ensemble=config.workdir,
    predict="two cats .",
    beam_size=2,
    workdir=str(tmp_path),
  )
  assert translate.run(loaded) == {"written": scores["written"]}
  assert capsys.readouterr().out == printed
  np.testing.assert_array_equal(imread(tmp_path / "figures" / "attention.png"), drawn)


def test_resumed_run_equals_uninterrupted_run(translate_run, tmp_path, monkeypatch, capsys):
  """Stopped in the middle of the epoch: bit for bit the same scores and parameters."""
  config, scores, _ = translate_run
  config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
  train = training.Trainer.train

  def stopped(run):
    for state, metrics in train(run):
      if int(state.step) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      yield state, metrics

  with monkeypatch.context() as patch:
    patch.setattr(training.Trainer, "train", stopped)
    with pytest.raises(Preempted):
      translate.run(config)
  again = translate.run(config)
  assert again.keys() == scores.keys()
  for name in scores.keys() - MEASURED:
    assert again[name] == scores[name], name
  jax.tree.map(
    np.testing.assert_array_equal,
    *(training.load_saved_run(one.out).params for one in (config, translate_run[0])),
  )


@pytest.fixture(scope="module")
def no_attention_run(translate_run, tmp_path_factory):
  """One without attention, from the command line: its --workdir and the process."""
  out = str(tmp_path_factory.mktemp("blind") / "run")
  options = TINY | dict(
    attention="none", data_dir=translate_run[0].data_dir, workdir=out, beam_size=1
  )
  done = subprocess.run(
    [sys.executable, "-m", "experiments.translate", *(f"--{k}={v}" for k, v in options.items())],
    capture_output=True,
    text=True,
    timeout=300,
  )
  return out, done


def test_command_line_result(no_attention_run):
  """The last line of stdout is one JSON object; without attention there is no map."""
  out, done = no_attention_run
  assert done.returncode == 0, done.stderr
  written, last = done.stdout.splitlines()
  result = json.loads(last)
  assert result["experiment"] == "translate" and result["written"] == written
  assert {"test/bleu", "test/loss", "signature", "search_seconds"} <= result.keys()
  assert not (pathlib.Path(out) / "figures").exists()


def test_loaded_model_without_attention_has_no_figure(no_attention_run, tmp_path, capsys):
  """Whether it attends is the loaded model's affair, and not that of the flags."""
  out, _ = no_attention_run
  translate.run(Config(ensemble=out, predict="two cats .", workdir=str(tmp_path)))
  assert not (tmp_path / "figures").exists()


def test_coverage_attention_trains_and_decodes(translate_run, capsys):
  """With input feeding, from the first step to the last translation."""
  text = pairs_data.load_parallel(translate_run[0].data_dir, "en", "xx")
  config = Config(**TINY, attention="coverage", input_feeding=True)
  rewriter, scores = seq2seq_common.load_or_train(config, text)
  assert scores["test/loss"] < 0.97 * np.log(11)
  assert len(rewriter([source for source, _ in text.test])) == 16


def test_blank_sentence_raises(translate_run):
  with pytest.raises(InvalidInputError, match="--predict"):
    translate.run(Config(ensemble=translate_run[0].out, predict="  "))


def test_load_rejects_other_experiments(tmp_path):
  """No run at all, and a run of another kind."""
  with pytest.raises(InvalidInputError, match="is not the --workdir of a run"):
    translate.run(Config(ensemble="/nowhere", predict="a"))
  finish_training(make_trainer(Other(workdir=str(tmp_path / "run"))))
  with pytest.raises(InvalidInputError, match="is the --workdir of another experiment"):
    translate.load(str(tmp_path / "run"))


@pytest.fixture
def forbid_training(monkeypatch):
  """No step of training may be taken."""
  monkeypatch.setattr(training.Trainer, "__init__", lambda *_, **__: pytest.fail("it trains"))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(attention="none", input_feeding=True), "feed=True needs attention"),
    (dict(attention="coverage"), r"coverage=True\) needs feed=True"),
    (dict(attention="multi_head", hidden_size=6), "heads that divide"),
    (dict(copy_attention=True), "--copy_attention needs --shared_vocab"),
    (dict(coverage_penalty=1.0), "--coverage_penalty needs --attention=coverage; got general"),
    (dict(attention="softly"), r"--attention must be one of none, .*; got 'softly'"),
    (dict(tokenizer="letters"), r"--tokenizer must be one of bpe, word, character"),
    (dict(beam_size=0), r"--beam_size must be at least 1; got 0"),
    (dict(beam_size=500), r"beam must be at most \d+, the vocabulary; got 500"),
    (dict(predict=" "), "translate|text"),
    (dict(scheduled_sampling_prob=1.0), r"--scheduled_sampling_prob must be less than 1; got 1"),
    (dict(tokenizer="bpe", vocab_size=9), r"size must be at least \d+.*got 9"),
    (dict(batch_size=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(target_language="de"), r"must hold one pair of files train\*\.en and train\*\.de"),
    (dict(data_dir="/nowhere"), r"--data_dir must be .*got '/nowhere'"),
    (dict(dataset="files", data_dir=""), r"--data_dir must be "),
  ],
  ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_invalid_flags_raise_before_training(translate_run, forbid_training, options, words):
  """Each by a sentence that says what would fit."""
  with pytest.raises(InvalidInputError, match=words):
    translate.run(Config(**TINY | {"data_dir": translate_run[0].data_dir} | options))


@pytest.mark.parametrize(
  "options",
  [dict(attention="none", input_feeding=True), dict(copy_attention=True)],
  ids=["feed", "copy"],
)
def test_incompatible_flags_raise_before_tokenizing(monkeypatch, options):
  """A vocabulary of a large corpus takes minutes."""
  monkeypatch.setattr(seq2seq_common, "prepare", lambda *_: pytest.fail("it cuts"))
  with pytest.raises(InvalidInputError, match="needs"):
    translate.run(Config(**TINY | options))


def test_training_set_without_pairs_raises(tmp_path, forbid_training):
  """Each line lacks one side or the other."""
  folder = pathlib.Path(write_parallel_files(tmp_path / "data"))
  (folder / "train.en").write_text("one\n\n")
  (folder / "train.xx").write_text("\nunu\n")
  with pytest.raises(
    InvalidInputError, match=r"train\.en and .*train\.xx must have a line in common"
  ):
    translate.run(Config(**TINY, data_dir=str(folder)))


def test_unaligned_files_raise(tmp_path, forbid_training):
  """Both are named, with their lines."""
  with pytest.raises(
    InvalidInputError, match=r"test\.en and .*test\.xx must have as many .* 16 and 14"
  ):
    translate.run(Config(**TINY, data_dir=write_parallel_files(tmp_path / "data", cut=2)))

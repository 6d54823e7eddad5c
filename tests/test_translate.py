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
from rnnjax.training.trainer import Stopped
from rnnjax.types import BadInput
from tests.test_run import Config as Other
from tests.test_run import finish, make

TINY = dict(
  hidden=8,
  width=8,
  batch=8,
  epochs=1,
  rate=0.02,
  average=0.9,
  subwords="word",
  beam=2,
  source="en",
  target="xx",
  dropout=0.1,
)
PAIRS = {"one": "un", "two": "du", "three": "tri", "cats": "katoj", "dogs": "hundoj", "see": "vidi"}
MEASURED = ("seconds", "search_seconds", "tokens_per_second", "words_per_second")


def files(folder, cut=0):
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
def esperanto(tmp_path_factory):
  """A translator of parallel files: its configuration, scores and what it printed."""
  folder = tmp_path_factory.mktemp("esperanto")
  config = Config(
    **TINY, data_dir=files(folder / "data"), out=str(folder / "run"), translate="two cats ."
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = translate.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def test_attention_is_worth_it():
  """What a bottleneck loses of the generated translations, attention has."""
  text = pairs_data.load("embedded", "", "", "", "translations")
  text = text._replace(train=text.train[:1200], valid=text.valid[:64], test=text.test[:64])
  how = TINY | dict(hidden=16, width=16, batch=16, epochs=2, rate=0.03, dropout=0.0)
  loss = {
    kind: seq2seq_common.rewriter(Config(**how, attention=kind), text)[1]["test/loss"]
    for kind in ("none", "general")
  }
  assert loss["general"] < 0.8 * loss["none"], loss


def test_scores(esperanto):
  """BLEU is that of what was written beside the references; the loss is of words, in nats."""
  config, scores, _ = esperanto
  path = pathlib.Path(config.out) / "written.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  text = pairs_data.parallel(config.data_dir, "en", "xx")
  assert [(row["source"], row["target"]) for row in rows] == text.test
  sides = [row["written"] for row in rows], [[row["target"] for row in rows]]
  bleu = sacrebleu.corpus_bleu(*sides, force=True)
  assert scores["test/bleu"] == bleu.score and "tok:13a" in scores["signature"]
  assert 0 < scores["test/loss"] < 0.97 * np.log(11) and scores["dataset"] == "data en-xx"
  again = translate.load(config.out)([source for source, _ in text.test], width=config.beam)
  assert again == sides[0]


def test_in_lower_case_large_letters_are_no_errors():
  """BLEU of what is written in lower case is that of references in lower case, and says so."""
  rows = [("a cat sits on the mat", "Eine Katze sitzt auf der Matte")]
  speak = lambda texts, **how: [true.lower() for _, true in rows]
  scores = translate.judge(Config(lower=True), speak, rows)
  assert scores["test/bleu"] == pytest.approx(100) and "case:lc" in scores["signature"]
  assert translate.judge(Config(), speak, rows)["test/bleu"] < 50


def test_too_long_a_text_is_no_picture(esperanto, tmp_path):
  """What it says is printed, and no picture of gigabytes is drawn."""
  long = dict(translate="two cats . " * 300, longest=3, beam=1)
  assert translate.run(Config(load=esperanto[0].out, out=str(tmp_path), **long))["written"]
  assert not (tmp_path / "figures").exists()


def test_a_sentence(esperanto, tmp_path, capsys):
  """It is translated after training, and by --load the same; what it attended to is drawn."""
  config, scores, printed = esperanto
  assert printed.splitlines() == [scores["written"]]
  drawn = imread(pathlib.Path(config.out) / "figures" / "attention.png")
  loaded = Config(
    source="en", target="xx", load=config.out, translate="two cats .", beam=2, out=str(tmp_path)
  )
  assert translate.run(loaded) == {"written": scores["written"]}
  assert capsys.readouterr().out == printed
  np.testing.assert_array_equal(imread(tmp_path / "figures" / "attention.png"), drawn)


def test_resuming_equals_never_having_stopped(esperanto, tmp_path, monkeypatch, capsys):
  """Stopped in the middle of the epoch: bit for bit the same scores and parameters."""
  config, scores, _ = esperanto
  config = dataclasses.replace(config, out=str(tmp_path / "run"))
  train = training.Run.train

  def stopped(run):
    for state, metrics in train(run):
      if int(state.step) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      yield state, metrics

  with monkeypatch.context() as patch:
    patch.setattr(training.Run, "train", stopped)
    with pytest.raises(Stopped):
      translate.run(config)
  again = translate.run(config)
  assert again.keys() == scores.keys()
  for name in scores.keys() - MEASURED:
    assert again[name] == scores[name], name
  jax.tree.map(
    np.testing.assert_array_equal,
    *(training.load(one.out).params for one in (config, esperanto[0])),
  )


@pytest.fixture(scope="module")
def blind(esperanto, tmp_path_factory):
  """One without attention, from the command line: its --out and the process."""
  out = str(tmp_path_factory.mktemp("blind") / "run")
  options = TINY | dict(attention="none", data_dir=esperanto[0].data_dir, out=out, beam=1)
  done = subprocess.run(
    [sys.executable, "-m", "experiments.translate", *(f"--{k}={v}" for k, v in options.items())],
    capture_output=True,
    text=True,
    timeout=300,
  )
  return out, done


def test_the_command_line(blind):
  """The last line of stdout is one JSON object; without attention there is no map."""
  out, done = blind
  assert done.returncode == 0, done.stderr
  written, last = done.stdout.splitlines()
  result = json.loads(last)
  assert result["experiment"] == "translate" and result["written"] == written
  assert {"test/bleu", "test/loss", "signature", "search_seconds"} <= result.keys()
  assert not (pathlib.Path(out) / "figures").exists()


def test_what_is_loaded_has_no_map_either(blind, tmp_path, capsys):
  """Whether it attends is the loaded model's affair, and not that of the flags."""
  out, _ = blind
  translate.run(Config(load=out, translate="two cats .", out=str(tmp_path)))
  assert not (tmp_path / "figures").exists()


def test_coverage_learns_and_searches(esperanto, capsys):
  """With input feeding, from the first step to the last translation."""
  text = pairs_data.parallel(esperanto[0].data_dir, "en", "xx")
  config = Config(**TINY, attention="coverage", feed=True)
  rewriter, scores = seq2seq_common.rewriter(config, text)
  assert scores["test/loss"] < 0.97 * np.log(11)
  assert len(rewriter([source for source, _ in text.test])) == 16


def test_a_blank_sentence_is_refused(esperanto):
  with pytest.raises(BadInput, match="--translate"):
    translate.run(Config(load=esperanto[0].out, translate="  "))


def test_what_is_no_translator_is_refused(tmp_path):
  """No run at all, and a run of another kind."""
  with pytest.raises(BadInput, match="is not the --out of a run"):
    translate.run(Config(load="/nowhere", translate="a"))
  finish(make(Other(out=str(tmp_path / "run"))))
  with pytest.raises(BadInput, match="is the --out of another experiment"):
    translate.load(str(tmp_path / "run"))


@pytest.fixture
def idle(monkeypatch):
  """No step of training may be taken."""
  monkeypatch.setattr(training.Run, "__init__", lambda *_, **__: pytest.fail("it trains"))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(attention="none", feed=True), "feed=True needs attention"),
    (dict(attention="coverage"), r"coverage=True\) needs feed=True"),
    (dict(attention="multi_head", hidden=6), "heads that divide"),
    (dict(copy=True), "--copy needs --joint"),
    (dict(coverage_penalty=1.0), "--coverage_penalty needs --attention=coverage; got general"),
    (dict(attention="softly"), r"--attention must be one of none, .*; got 'softly'"),
    (dict(subwords="letters"), r"--subwords must be one of bpe, word, character"),
    (dict(beam=0), r"--beam must be at least 1; got 0"),
    (dict(beam=500), r"beam must be at most \d+, the vocabulary; got 500"),
    (dict(translate=" "), "translate|text"),
    (dict(sampled=1.0), r"--sampled must be less than 1; got 1"),
    (dict(subwords="bpe", vocabulary=9), r"size must be at least \d+.*got 9"),
    (dict(batch=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(target="de"), r"must hold one pair of files train\*\.en and train\*\.de"),
    (dict(data_dir="/nowhere"), r"--data_dir must be .*got '/nowhere'"),
    (dict(dataset="files", data_dir=""), r"--data_dir must be "),
  ],
  ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_misfits_are_refused_before_training(esperanto, idle, options, words):
  """Each by a sentence that says what would fit."""
  with pytest.raises(BadInput, match=words):
    translate.run(Config(**TINY | {"data_dir": esperanto[0].data_dir} | options))


@pytest.mark.parametrize(
  "options", [dict(attention="none", feed=True), dict(copy=True)], ids=["feed", "copy"]
)
def test_flags_that_do_not_fit_each_other_are_refused_before_texts_are_cut(monkeypatch, options):
  """A vocabulary of a large corpus takes minutes."""
  monkeypatch.setattr(seq2seq_common, "prepare", lambda *_: pytest.fail("it cuts"))
  with pytest.raises(BadInput, match="needs"):
    translate.run(Config(**TINY | options))


def test_a_training_part_without_a_pair_is_refused(tmp_path, idle):
  """Each line lacks one side or the other."""
  folder = pathlib.Path(files(tmp_path / "data"))
  (folder / "train.en").write_text("one\n\n")
  (folder / "train.xx").write_text("\nunu\n")
  with pytest.raises(BadInput, match=r"train\.en and .*train\.xx must have a line in common"):
    translate.run(Config(**TINY, data_dir=str(folder)))


def test_files_of_unlike_lengths_are_refused(tmp_path, idle):
  """Both are named, with their lines."""
  with pytest.raises(BadInput, match=r"test\.en and .*test\.xx must have as many .* 16 and 14"):
    translate.run(Config(**TINY, data_dir=files(tmp_path / "data", cut=2)))

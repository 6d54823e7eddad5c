"""The character language model as one uses it: learning, writing, resuming, refusing."""

import contextlib
import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import pytest

from experiments import char_lm, word_lm
from experiments.char_lm import Config
from rnnjax.types import BadInput

TINY = dict(hidden=4, width=4, batch=4, window=10, epochs=1, dropout=0.0, sample=0)


@pytest.fixture(scope="module")
def hello(tmp_path_factory):
  """What a run has learnt from a text that repeats itself: its configuration, scores and output."""
  folder = tmp_path_factory.mktemp("hello")
  (folder / "text").write_text("hello " * 400)
  config = Config(
    text=str(folder / "text"),
    out=str(folder / "run"),
    hidden=32,
    width=8,
    batch=4,
    window=25,
    epochs=8,
    rate=0.02,
    dropout=0.0,
    average=0.9,
    prompt="h",
    temperature=0.0,
    sample=10,
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = char_lm.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def test_a_text_that_repeats_is_learnt(hello):
  """To less than a tenth of a bit, and it is what one reads then."""
  _, scores, written = hello
  assert scores["test/bits"] < 0.1
  assert scores["test/bits"] == scores["test/loss"] / math.log(2)
  assert scores["test/loss"] < 1.2 * scores["valid/loss"] + 1e-3
  assert written == "hello hello\n"


def test_what_is_asked_of_it_may_change(hello, capsys):
  """A finished run is not trained again, whatever is to be written; another model is refused."""
  config, scores, _ = hello
  again = char_lm.run(dataclasses.replace(config, prompt="o h", temperature=0.0, sample=4))
  assert capsys.readouterr().out == "o hello\n"
  assert {name: again[name] for name in scores} == scores
  with pytest.raises(BadInput, match=r"hidden: 32 there, 16 asked for"):
    char_lm.run(dataclasses.replace(config, hidden=16))


def test_what_is_loaded_writes_the_same(hello, capsys):
  """The same seed, temperature and prompt, the same text: by --write, and by load."""
  config, _, written = hello
  assert char_lm.load(config.out).write("h", 10, temperature=0.0) == [written[1:-1]]
  asked = dict(sample=30, temperature=1.5, texts=2, prompt="h")
  scores = char_lm.run(dataclasses.replace(config, **asked))
  text = capsys.readouterr().out
  assert char_lm.run(Config(write=config.out, **asked)).keys() == {"symbols_per_second"}
  assert capsys.readouterr().out == text and "symbols_per_second" in scores
  one, two = char_lm.load(config.out).write("h", 30, number=2, seed=0, temperature=1.5)
  assert text == f"h{one}\n" and one != two
  assert char_lm.load(config.out).write("h", 30, number=2, seed=1, temperature=1.5) != [one, two]


def test_another_text_is_refused(hello):
  """The same file with other symbols: ids would mean something else."""
  config, *_ = hello
  path = pathlib.Path(config.text)
  before = path.read_text()
  path.write_text("jolly " * 400)
  try:
    with pytest.raises(BadInput, match=r"vocabulary\.json is not the vocabulary of this data"):
      char_lm.run(dataclasses.replace(config, prompt="j"))
  finally:
    path.write_text(before)


def test_a_strange_prompt_is_refused_before_training(tmp_path):
  (tmp_path / "text").write_text("hello " * 40)
  config = Config(**TINY, text=str(tmp_path / "text"), out=str(tmp_path / "run"), prompt="héß")
  with pytest.raises(BadInput, match=r"\['ß', 'é'\] do not occur.*, which has 5 symbols"):
    char_lm.run(config)
  assert not (tmp_path / "run").exists()


def test_a_text_of_bytes_is_asked_and_answers_in_characters(tmp_path, capsys):
  text, out = tmp_path / "text", str(tmp_path / "run")
  text.write_text("äöü " * 80, encoding="utf-8")
  asked = dict(bytes=True, text=str(text), out=out, prompt="äöü ä", temperature=0)
  more = {"hidden": 32, "epochs": 20, "rate": 2e-2, "average": 0.9, "sample": 9}
  char_lm.run(Config(**TINY | more, **asked))
  assert capsys.readouterr().out == "äöü äöü äö\n"  # nine bytes after the prompt
  assert char_lm.load(out).write("äöü äö", 3, temperature=0) == ["ü "]


def test_a_text_of_one_line_needs_no_prompt(tmp_path, capsys):
  """Where there is no newline to begin with, it begins with what there is."""
  (tmp_path / "text").write_text("hello " * 40)
  char_lm.run(Config(**TINY | {"sample": 5}, text=str(tmp_path / "text")))
  assert capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "lru"])
def test_units_are_found_and_drawn(tmp_path, cell):
  """A text with quotes: correlations among the scores, and a figure in --out, be the units within 1
  or not."""
  (tmp_path / "text").write_text('he says "hello there" (or not).\n' * 40)
  where = dict(text=str(tmp_path / "text"), out=str(tmp_path / "run"))
  scores = char_lm.run(Config(**TINY | {"rate": 0.1}, cell=cell, **where))
  found = {name: r for name, r in scores.items() if name.startswith("units/")}
  assert found.keys() == {"units/quotes", "units/brackets", "units/line", "units/word"}
  assert all(0 < abs(r) <= 1 for r in found.values())
  figure = tmp_path / "run" / "figures" / "units.png"
  assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_refused(tmp_path):
  """A folder without a run, a run without a checkpoint, and a run of words."""
  with pytest.raises(BadInput, match=r"is not the --out of a run: it has no config\.json"):
    char_lm.load(str(tmp_path))
  text, out = tmp_path / "text", tmp_path / "words"
  text.write_text("a b c .\n" * 40)
  word_lm.run(word_lm.Config(**TINY, text=str(text), out=str(out)))
  with pytest.raises(BadInput, match="is the --out of another experiment"):
    char_lm.load(str(out))
  (tmp_path / "config.json").write_text((out / "config.json").read_text())
  with pytest.raises(BadInput, match="has no checkpoint yet"):
    char_lm.load(str(tmp_path))


def test_writing_from_the_command_line(hello):
  """The text, and on the last line of stdout one JSON object."""
  config, *_ = hello
  flags = f"--write={config.out} --prompt=hell --temperature=0 --sample=8 --texts=2".split()
  done = subprocess.run(
    [sys.executable, "-m", "experiments.char_lm", *flags],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  text, last = done.stdout.splitlines()
  assert text == "hello hello "
  result = json.loads(last)
  assert result.keys() == {"experiment", "symbols_per_second"}
  assert result["experiment"] == "char_lm"

"""Training, generation and resumption of `experiments.char_lm`."""

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
from rnnjax.types import InvalidInputError

TINY = dict(
  hidden_size=4, embed_dim=4, batch_size=4, bptt_length=10, epochs=1, dropout=0.0, sample_length=0
)


@pytest.fixture(scope="module")
def hello_run(tmp_path_factory):
  """A model of a repeating text: its configuration, its scores and what it printed."""
  folder = tmp_path_factory.mktemp("hello")
  (folder / "text").write_text("hello " * 400)
  config = Config(
    text_file=str(folder / "text"),
    workdir=str(folder / "run"),
    hidden_size=32,
    embed_dim=8,
    batch_size=4,
    bptt_length=25,
    epochs=8,
    learning_rate=0.02,
    dropout=0.0,
    ema_decay=0.9,
    prompt="h",
    temperature=0.0,
    sample_length=10,
  )
  with contextlib.redirect_stdout(open(folder / "stdout", "w")) as stdout:
    scores = char_lm.run(config)
  stdout.close()
  return config, scores, (folder / "stdout").read_text()


def test_repeating_text_is_learned(hello_run):
  """To less than a tenth of a bit; then it generates that text."""
  _, scores, printed = hello_run
  assert scores["test/bits"] < 0.1
  assert scores["test/bits"] == scores["test/loss"] / math.log(2)
  assert scores["test/loss"] < 1.2 * scores["valid/loss"] + 1e-3
  assert printed == "hello hello\n"


def test_finished_run_accepts_new_sampling_flags(hello_run, capsys):
  """A finished run is not trained again. Another model in its folder is an error."""
  config, scores, _ = hello_run
  new_scores = char_lm.run(
    dataclasses.replace(config, prompt="o h", temperature=0.0, sample_length=4)
  )
  assert capsys.readouterr().out == "o hello\n"
  assert {name: new_scores[name] for name in scores} == scores
  with pytest.raises(InvalidInputError, match="hidden_size: saved 32, requested 16"):
    char_lm.run(dataclasses.replace(config, hidden_size=16))


def test_loaded_model_generates_same_text(hello_run, capsys):
  """By --predict and by `load`: the same seed, temperature and prompt give the same text."""
  config, _, printed = hello_run
  assert char_lm.load(config.workdir).generate("h", 10, temperature=0.0) == [printed[1:-1]]
  options = dict(sample_length=30, temperature=1.5, num_samples=2)
  scores = char_lm.run(dataclasses.replace(config, prompt="h", **options))
  text = capsys.readouterr().out
  predict = Config(predict="h", workdir=config.workdir, **options)
  assert char_lm.run(predict).keys() == {"symbols_per_second"}
  assert capsys.readouterr().out == text and "symbols_per_second" in scores
  one, two = char_lm.load(config.workdir).generate("h", 30, num_samples=2, seed=0, temperature=1.5)
  assert text == f"h{one}\n" and one != two
  assert char_lm.load(config.workdir).generate("h", 30, num_samples=2, seed=1, temperature=1.5) != [
    one,
    two,
  ]


def test_changed_text_raises(hello_run):
  """The same file with other symbols: the token ids would have other meanings."""
  config, *_ = hello_run
  path = pathlib.Path(config.text_file)
  original = path.read_text()
  path.write_text("jolly " * 400)
  try:
    with pytest.raises(
      InvalidInputError, match=r"vocabulary\.json is not the vocabulary of this data"
    ):
      char_lm.run(dataclasses.replace(config, prompt="j"))
  finally:
    path.write_text(original)


def test_unknown_prompt_symbols_raise_before_training(tmp_path):
  (tmp_path / "text").write_text("hello " * 40)
  config = Config(
    **TINY, text_file=str(tmp_path / "text"), workdir=str(tmp_path / "run"), prompt="héß"
  )
  with pytest.raises(InvalidInputError, match=r"\['ß', 'é'\] do not occur.*, which has 5 symbols"):
    char_lm.run(config)
  assert not (tmp_path / "run").exists()


def test_byte_model_prompts_and_generates_characters(tmp_path, capsys):
  text, workdir = tmp_path / "text", str(tmp_path / "run")
  text.write_text("äöü " * 80, encoding="utf-8")
  options = dict(
    byte_level=True, text_file=str(text), workdir=workdir, prompt="äöü ä", temperature=0
  )
  training_options = {
    "hidden_size": 32,
    "epochs": 20,
    "learning_rate": 2e-2,
    "ema_decay": 0.9,
    "sample_length": 9,
  }
  char_lm.run(Config(**TINY | training_options, **options))
  assert capsys.readouterr().out == "äöü äöü äö\n"  # nine bytes after the prompt
  assert char_lm.load(workdir).generate("äöü äö", 3, temperature=0) == ["ü "]


def test_single_line_text_without_prompt(tmp_path, capsys):
  """Without a newline in the vocabulary, the prompt is the most frequent symbol."""
  (tmp_path / "text").write_text("hello " * 40)
  char_lm.run(Config(**TINY | {"sample_length": 5}, text_file=str(tmp_path / "text")))
  assert capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "lru"])
def test_tracking_units_are_scored_and_plotted(tmp_path, cell):
  """Also for a cell whose states exceed 1, the LRU."""
  (tmp_path / "text").write_text('he says "hello there" (or not).\n' * 40)
  paths = dict(text_file=str(tmp_path / "text"), workdir=str(tmp_path / "run"))
  scores = char_lm.run(Config(**TINY | {"learning_rate": 0.1}, cell=cell, **paths))
  correlations = {name: r for name, r in scores.items() if name.startswith("units/")}
  assert correlations.keys() == {"units/quotes", "units/brackets", "units/line", "units/word"}
  assert all(0 < abs(r) <= 1 for r in correlations.values())
  figure = tmp_path / "run" / "figures" / "units.png"
  assert figure.read_bytes().startswith(b"\x89PNG")


def test_load_rejects_invalid_run_folder(tmp_path):
  """A folder without a run, a run without a checkpoint, and a run of word_lm."""
  with pytest.raises(
    InvalidInputError, match=r"is not the --workdir of a run: it has no config\.json"
  ):
    char_lm.load(str(tmp_path))
  text, workdir = tmp_path / "text", tmp_path / "words"
  text.write_text("a b c .\n" * 40)
  word_lm.run(word_lm.Config(**TINY, text_file=str(text), workdir=str(workdir)))
  with pytest.raises(InvalidInputError, match="is the --workdir of another experiment"):
    char_lm.load(str(workdir))
  (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
  with pytest.raises(InvalidInputError, match="has no checkpoint yet"):
    char_lm.load(str(tmp_path))


def test_generate_from_command_line(hello_run):
  """Prints the text; the last line of stdout is one JSON object."""
  config, *_ = hello_run
  flags = ["--predict=hell", f"--workdir={config.workdir}"]
  flags += ["--temperature=0", "--sample_length=8", "--num_samples=2"]
  process = subprocess.run(
    [sys.executable, "-m", "experiments.char_lm", *flags],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  text, last = process.stdout.splitlines()
  assert text == "hello hello "
  result = json.loads(last)
  assert result.keys() == {"experiment", "symbols_per_second"}
  assert result["experiment"] == "char_lm"

"""The word language model as one uses it, and a classifier that starts from it."""

import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import imdb, word_lm
from experiments.export import export_run
from experiments.word_lm import Config
from rnnjax import training
from rnnjax.types import BadInput

TINY = dict(hidden=4, width=4, batch=4, window=8, epochs=1, dropout=0.0, sample=0)
SMALL = dict(
  hidden=16, width=8, batch=4, window=20, epochs=12, rate=0.03, dropout=0.0, average=0.9, sample=0
)
TRUTH = 2 ** (1 / 5)  # one bit for each line of five tokens


@pytest.fixture(scope="module")
def grammar(tmp_path_factory):
  """A text whose lines are one of two by the toss of a coin, all else being determined."""
  path = tmp_path_factory.mktemp("grammar") / "text"
  toss = np.random.default_rng(0).integers(0, 2, 600)
  path.write_text("".join(("x a b .\n", "y c d .\n")[n] for n in toss))
  return str(path)


def test_a_grammar_is_learnt(grammar, tmp_path, capsys):
  """To its true perplexity; what a prompt leaves open and what not is shown."""
  config = Config(**SMALL, text=grammar, out=str(tmp_path / "run"), prompt=". <eos> x")
  scores = word_lm.run(config)
  for part in ("valid", "test"):
    assert 0.97 * TRUTH < scores[f"{part}/perplexity"] < 1.04 * TRUTH
    np.testing.assert_allclose(scores[f"{part}/perplexity"], math.exp(scores[f"{part}/loss"]))
  shown = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert len(shown) == 9  # all that there is: <unk>, <eos>, three of each kind of line, and "."
  assert shown[0][1:] == [".", "<eos>", "x", "a"] and float(shown[0][0]) > 0.9
  writer = word_lm.load(config.out)
  coin = dict(writer.likeliest("x a b . <eos>", 2))
  assert coin.keys() == {"x", "y"} and all(0.3 < p < 0.7 for p in coin.values())
  (text,) = writer.write("y", 4, temperature=0.0)
  assert text == "c d . <eos>"


@pytest.mark.parametrize(
  "options",
  [
    dict(cutoffs="3,6"),
    dict(tied=True, layers=2, cell="gru"),
    dict(optimizer="asgd", rate=10.0, epochs=20, trigger=0.8),
    dict(zoneout=0.1, weight_drop=0.1, type_dropout=0.05, activation=0.01, temporal=0.01),
  ],
  ids=["cutoffs", "tied", "asgd", "regularised"],
)
def test_all_that_can_be_asked_for_learns(grammar, options):
  """From the perplexity of guessing, about 7, to that of the grammar or not far above."""
  assert word_lm.run(Config(**SMALL | options, text=grammar))["test/perplexity"] < 1.25


def test_typed_axes_change_nothing(grammar):
  """Carries, validation and the cache are those of axes that the compiler cuts."""
  one, other = (
    word_lm.run(Config(**TINY | {"epochs": 2}, text=grammar, cache=15, mesh=mesh))
    for mesh in ("batch:2", "explicit/batch:2")
  )
  for name in ("valid/perplexity", "test/perplexity", "test/cached_perplexity"):
    assert one[name] == pytest.approx(other[name], rel=1e-4), name


def test_the_cache_helps(tmp_path):
  """Where each line has two words of its own, of twelve in all, the recent past tells them."""
  draw = np.random.default_rng(0)
  lines = [draw.choice(draw.choice(list("abcdefghijkl"), 2, False), 40) for _ in range(60)]
  (tmp_path / "text").write_text("".join(" ".join(line) + "\n" for line in lines))
  config = Config(**TINY, text=str(tmp_path / "text"), cache=15, flatness=0.0, share=0.7)
  scores = word_lm.run(config)
  for part in ("valid", "test"):
    assert scores[f"{part}/cached_perplexity"] < 0.7 * scores[f"{part}/perplexity"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
  """A folder of reviews, told by their second word."""
  folder = tmp_path_factory.mktemp("reviews")
  for part, number in (("train", 80), ("test", 20)):
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film", "label": n % 2} for n in range(number)]
    (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder)


@pytest.fixture(scope="module")
def both(reviews, tmp_path_factory):
  """The --out of a language model that has read them in both directions."""
  out = str(tmp_path_factory.mktemp("both") / "run")
  options = dict(TINY, hidden=6, epochs=30, rate=0.03, average=0.9)
  scores = word_lm.run(
    Config(**options, cell="gru", dataset="reviews", data_dir=reviews, both=True, out=out)
  )
  # Good or bad, and then what is sure: half a bit a token, ahead as back, were it learnt fully.
  assert scores["test/perplexity"] < 1.5
  return out


def start(reviews, saved, **options):
  return imdb.Config(
    **dict(
      cell="gru",
      hidden=6,
      width=4,
      data_dir=reviews,
      init_from=saved,
      batch=8,
      epochs=1,
      evidence=0,
      rate=1e-6,
      average=0.0,
    )
    | options
  )


@pytest.mark.parametrize("evidence", [0, 2])
def test_a_classifier_starts_from_both_directions(reviews, both, tmp_path, evidence):
  """At a rate of almost 0 it still has the language model's cells; features are no matter."""
  out, theirs = str(tmp_path / "run"), training.load(both).params
  scores = imdb.run(start(reviews, both, evidence=evidence, out=out))
  assert 0 <= scores["test/accuracy"] <= 1
  layer = training.load(out).params["encoder"]["layer_0"]
  for name, part in (("forward", "encoder"), ("backward", "back")):
    for weight, expected in theirs[part]["layer_0"][name].items():
      np.testing.assert_allclose(layer[name][weight][: len(expected)], expected, atol=1e-3)
  assert len(layer["forward"]["W"]) == 4 + evidence


def test_a_classifier_reads_what_it_makes_of_the_words(reviews, both, tmp_path):
  """At a high rate it is learnt no further; what was learnt beside it is exported with it."""
  out, theirs = str(tmp_path / "run"), training.load(both).params
  how = dict(cell="lstm", hidden=3, width=5)  # neither need be the language model's
  imdb.run(start(reviews, both, evidence=2, out=out, frozen=True, rate=0.1, **how))
  params = training.load(out).params
  for part in ("encoder", "back"):
    jax.tree.map(np.testing.assert_array_equal, params["context"][part], theirs[part])
  assert len(params["encoder"]["layer_0"]["forward"]["W"]) == 5 + 5 + 2
  assert export_run.export(out)["difference"] <= 1e-6


def test_a_classifier_that_reads_no_language_model_is_refused(reviews):
  with pytest.raises(BadInput, match="--frozen needs a language model: --init_from=RUN"):
    imdb.run(start(reviews, "", frozen=True))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(hidden=5), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden"),
    (dict(cell="lstm"), r"encoder/layer_0/\w+ has .*--cell and --hidden"),
    (dict(width=5), r"embedding is 5 wide, that of the language model 4; the same --width"),
    (dict(init_from="/nowhere"), r"'/nowhere' is not the --out of a run"),
  ],
)
def test_a_classifier_unlike_it_is_refused(reviews, both, options, words, tmp_path):
  """And takes no place from one that is like it."""
  with pytest.raises(BadInput, match=words):
    imdb.run(start(reviews, both, out=str(tmp_path / "run"), **options))
  assert not (tmp_path / "run").exists()


def test_a_classifier_of_words_without_vectors_starts_from_none(reviews, both, tmp_path):
  """But it may read one, which has vectors of its own."""
  out, theirs = str(tmp_path / "run"), training.load(both).params["embedding"]["embedding"]
  with pytest.raises(BadInput, match="whose embedding is trainable"):
    imdb.run(start(reviews, both, embedding="onehot"))
  imdb.run(start(reviews, both, embedding="onehot", frozen=True, out=out))
  params = training.load(out).params
  assert "embedding" not in params
  read = params["context"]["embedding"]["embedding"]
  assert {row.tobytes() for row in read} <= {row.tobytes() for row in np.asarray(theirs)}


def test_a_classifier_does_not_start_from_a_classifier(reviews, tmp_path):
  out = str(tmp_path / "run")
  imdb.run(start(reviews, "", out=out))
  for frozen in (False, True):
    with pytest.raises(BadInput, match=r"of another experiment, imdb, not of word_lm"):
      imdb.run(start(reviews, out, frozen=frozen))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(cutoffs="6,3"), r"--cutoffs=6,3: .*cutoffs that rise.*got \(6, 3\)"),
    (dict(cutoffs="3,many"), r"--cutoffs=3,many: .*'many'"),
    (dict(cutoffs="3", tied=True), r"--cutoffs needs --tied=false"),
    (dict(weight_drop=0.5, cell="lru"), r"--weight_drop is of U, which lru\(4\) has none of"),
    (dict(both=True, layers=2), r"--both needs --layers=1; got 2"),
    (dict(batch=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(batch=400), r"cannot fill a batch of 400 columns.* A smaller --batch"),
    (dict(temperature=-1.0), r"--temperature must be 0 or more, and finite; got -1"),
    (dict(top_p=0.0), r"--top_p must lie in \(0, 1\]; got 0"),
    (dict(dropout=1.0), r"--dropout must be less than 1; got 1"),
    (dict(text="/nowhere"), r"--text must be a file; there is none at '/nowhere'"),
    (dict(write="/nowhere"), r"'/nowhere' is not the --out of a run"),
  ],
)
def test_misfits_are_refused(grammar, options, words):
  """Each by a sentence that names the flag."""
  with pytest.raises(BadInput, match=words):
    word_lm.run(Config(**TINY | {"text": grammar} | options))


def test_the_command_line(grammar, tmp_path):
  """It trains and writes; the last line of stdout is one JSON object."""
  flags = [f"--{name}={value}" for name, value in (TINY | {"sample": 3}).items()]
  done = subprocess.run(
    [sys.executable, "-m", "experiments.word_lm", *flags, f"--text={grammar}", "--prompt=x"],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  *likely, text, last = done.stdout.splitlines()
  assert len(likely) == 9 and all(line.split()[1] == "x" for line in likely)
  assert text.startswith("x ") and len(text.split()) == 4
  result = json.loads(last)
  assert result["experiment"] == "word_lm" and result["cell"] == "lstm"
  assert result["test/perplexity"] == pytest.approx(math.exp(result["test/loss"]))


def test_a_perplexity_beyond_all_numbers_is_infinite(grammar):
  """And what else was measured is not lost."""
  scores = word_lm.run(Config(**TINY | {"rate": 3e5}, text=grammar, cache=5))
  assert scores["test/loss"] > 800 and scores["test/perplexity"] == np.inf

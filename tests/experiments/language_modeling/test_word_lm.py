"""Training and generation of `experiments.word_lm`, and classifiers that start from it."""

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
from rnnjax.types import InvalidInputError

TINY = dict(
  hidden_size=4, embed_dim=4, batch_size=4, bptt_length=8, epochs=1, dropout=0.0, sample_length=0
)
SMALL = dict(
  hidden_size=16,
  embed_dim=8,
  batch_size=4,
  bptt_length=20,
  epochs=12,
  learning_rate=0.03,
  dropout=0.0,
  ema_decay=0.9,
  sample_length=0,
)
TRUTH = 2 ** (1 / 5)  # one bit for each line of five tokens


@pytest.fixture(scope="module")
def grammar_file(tmp_path_factory):
  """A text of two kinds of lines in random order, whose words are otherwise determined."""
  path = tmp_path_factory.mktemp("grammar") / "text"
  coin = np.random.default_rng(0).integers(0, 2, 600)
  path.write_text("".join(("x a b .\n", "y c d .\n")[n] for n in coin))
  return str(path)


def test_grammar_is_learned_to_true_perplexity(grammar_file, tmp_path, capsys):
  """Also prints the probabilities of the next word after the prompt."""
  config = Config(
    **SMALL, text_file=grammar_file, workdir=str(tmp_path / "run"), prompt=". <eos> x"
  )
  scores = word_lm.run(config)
  for split in ("valid", "test"):
    assert 0.97 * TRUTH < scores[f"{split}/perplexity"] < 1.04 * TRUTH
    np.testing.assert_allclose(scores[f"{split}/perplexity"], math.exp(scores[f"{split}/loss"]))
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  # The whole vocabulary: <unk>, <eos>, three words of each kind of line, and ".".
  assert len(rows) == 9
  assert rows[0][1:] == [".", "<eos>", "x", "a"] and float(rows[0][0]) > 0.9
  generator = word_lm.load(config.workdir)
  coin = dict(generator.top_next_tokens("x a b . <eos>", 2))
  assert coin.keys() == {"x", "y"} and all(0.3 < p < 0.7 for p in coin.values())
  (text,) = generator.generate("y", 4, temperature=0.0)
  assert text == "c d . <eos>"


@pytest.mark.parametrize(
  "options",
  [
    dict(adaptive_cutoffs="3,6"),
    dict(tied=True, num_layers=2, cell="gru"),
    dict(optimizer="asgd", learning_rate=10.0, epochs=20, asgd_start=0.8),
    dict(
      zoneout=0.1, weight_drop=0.1, word_type_dropout=0.05, activation_reg=0.01, temporal_reg=0.01
    ),
  ],
  ids=["cutoffs", "tied", "asgd", "regularised"],
)
def test_all_options_train(grammar_file, options):
  """From a perplexity of about 7, that of guessing, to nearly that of the grammar."""
  assert word_lm.run(Config(**SMALL | options, text_file=grammar_file))["test/perplexity"] < 1.25


def test_explicit_mesh_equals_auto_mesh(grammar_file):
  """Carries, validation and the cache give the same results with explicit sharding."""
  one, other = (
    word_lm.run(Config(**TINY | {"epochs": 2}, text_file=grammar_file, cache_size=15, mesh=mesh))
    for mesh in ("batch:2", "explicit/batch:2")
  )
  for name in ("valid/perplexity", "test/perplexity", "test/cached_perplexity"):
    assert one[name] == pytest.approx(other[name], rel=1e-4), name


def test_neural_cache_lowers_perplexity(tmp_path):
  """Each line repeats two of twelve words, which only the recent words tell."""
  rng = np.random.default_rng(0)
  lines = [rng.choice(rng.choice(list("abcdefghijkl"), 2, False), 40) for _ in range(60)]
  (tmp_path / "text").write_text("".join(" ".join(line) + "\n" for line in lines))
  config = Config(
    **TINY, text_file=str(tmp_path / "text"), cache_size=15, cache_theta=0.0, cache_lambda=0.7
  )
  scores = word_lm.run(config)
  for split in ("valid", "test"):
    assert scores[f"{split}/cached_perplexity"] < 0.7 * scores[f"{split}/perplexity"]


@pytest.fixture(scope="module")
def reviews_dir(tmp_path_factory):
  """A folder of reviews whose second word determines the label."""
  folder = tmp_path_factory.mktemp("reviews")
  for split, num_reviews in (("train", 80), ("test", 20)):
    rows = [
      {"text": f"a {'good' if n % 2 else 'bad'} film", "label": n % 2} for n in range(num_reviews)
    ]
    (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder)


@pytest.fixture(scope="module")
def bidirectional_lm(reviews_dir, tmp_path_factory):
  """The --workdir of a language model of these reviews in both directions."""
  workdir = str(tmp_path_factory.mktemp("both") / "run")
  options = dict(TINY, hidden_size=6, epochs=30, learning_rate=0.03, ema_decay=0.9)
  scores = word_lm.run(
    Config(
      **options,
      cell="gru",
      dataset="reviews",
      data_dir=reviews_dir,
      bidirectional_lm=True,
      workdir=workdir,
    )
  )
  # One bit in each review, and the rest is certain: half a bit a token in both directions.
  assert scores["test/perplexity"] < 1.5
  return workdir


def classifier_config(reviews, saved, **options):
  return imdb.Config(
    **dict(
      cell="gru",
      hidden_size=6,
      embed_dim=4,
      data_dir=reviews,
      init_from=saved,
      batch_size=8,
      epochs=1,
      ngram_order=0,
      learning_rate=1e-6,
      ema_decay=0.0,
    )
    | options
  )


@pytest.mark.parametrize("ngram_order", [0, 2])
def test_classifier_init_from_bidirectional_lm(
  reviews_dir, bidirectional_lm, tmp_path, ngram_order
):
  """With a learning rate near 0 it keeps the language model's cells, with or without features."""
  workdir, lm_params = str(tmp_path / "run"), training.load_saved_run(bidirectional_lm).params
  scores = imdb.run(
    classifier_config(reviews_dir, bidirectional_lm, ngram_order=ngram_order, workdir=workdir)
  )
  assert 0 <= scores["test/accuracy"] <= 1
  layer = training.load_saved_run(workdir).params["encoder"]["layer_0"]
  for name, direction in (("forward", "encoder"), ("backward", "back")):
    for weight, expected in lm_params[direction]["layer_0"][name].items():
      np.testing.assert_allclose(layer[name][weight][: len(expected)], expected, atol=1e-3)
  assert len(layer["forward"]["W"]) == 4 + ngram_order


def test_classifier_with_frozen_lm(reviews_dir, bidirectional_lm, tmp_path):
  """Training does not change the language model. It is exported with the classifier."""
  workdir, lm_params = str(tmp_path / "run"), training.load_saved_run(bidirectional_lm).params
  # Cell and sizes may differ from those of the language model.
  options = dict(cell="lstm", hidden_size=3, embed_dim=5)
  imdb.run(
    classifier_config(
      reviews_dir,
      bidirectional_lm,
      ngram_order=2,
      workdir=workdir,
      freeze_lm=True,
      learning_rate=0.1,
      **options,
    )
  )
  params = training.load_saved_run(workdir).params
  for name in ("encoder", "back"):
    jax.tree.map(np.testing.assert_array_equal, params["context"][name], lm_params[name])
  assert len(params["encoder"]["layer_0"]["forward"]["W"]) == 5 + 5 + 2
  assert export_run.export_run(workdir)["difference"] <= 1e-6


def test_freeze_lm_without_lm_raises(reviews_dir):
  with pytest.raises(
    InvalidInputError, match="--freeze_lm needs a language model: --init_from=RUN"
  ):
    imdb.run(classifier_config(reviews_dir, "", freeze_lm=True))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(hidden_size=5), r"encoder/layer_0/\w+/\w+ has shape .*--cell and --hidden_size"),
    (dict(cell="lstm"), r"encoder/layer_0/\w+ has .*--cell and --hidden_size"),
    (
      dict(embed_dim=5),
      r"embedding has 5 features, that of the language model 4; both need the same --embed_dim",
    ),
    (dict(init_from="/nowhere"), r"'/nowhere' is not the --workdir of a run"),
  ],
)
def test_classifier_unlike_lm_raises(reviews_dir, bidirectional_lm, options, words, tmp_path):
  """Before a run directory is created."""
  with pytest.raises(InvalidInputError, match=words):
    imdb.run(
      classifier_config(reviews_dir, bidirectional_lm, workdir=str(tmp_path / "run"), **options)
    )
  assert not (tmp_path / "run").exists()


def test_one_hot_classifier_needs_frozen_lm(reviews_dir, bidirectional_lm, tmp_path):
  """The frozen language model has an embedding of its own."""
  workdir, lm_params = (
    str(tmp_path / "run"),
    training.load_saved_run(bidirectional_lm).params["embedding"]["embedding"],
  )
  with pytest.raises(InvalidInputError, match="whose embedding is trainable"):
    imdb.run(classifier_config(reviews_dir, bidirectional_lm, embedding="onehot"))
  imdb.run(
    classifier_config(
      reviews_dir, bidirectional_lm, embedding="onehot", freeze_lm=True, workdir=workdir
    )
  )
  params = training.load_saved_run(workdir).params
  assert "embedding" not in params
  read = params["context"]["embedding"]["embedding"]
  assert {row.tobytes() for row in read} <= {row.tobytes() for row in np.asarray(lm_params)}


def test_init_from_classifier_raises(reviews_dir, tmp_path):
  workdir = str(tmp_path / "run")
  imdb.run(classifier_config(reviews_dir, "", workdir=workdir))
  for frozen in (False, True):
    with pytest.raises(InvalidInputError, match=r"of another experiment, imdb, not of word_lm"):
      imdb.run(classifier_config(reviews_dir, workdir, freeze_lm=frozen))


@pytest.mark.parametrize(
  "options, words",
  [
    (
      dict(adaptive_cutoffs="6,3"),
      r"--adaptive_cutoffs=6,3: .*cutoffs must be strictly increasing.*got \(6, 3\)",
    ),
    (dict(adaptive_cutoffs="3,many"), r"--adaptive_cutoffs=3,many: .*'many'"),
    (dict(adaptive_cutoffs="3", tied=True), r"--adaptive_cutoffs needs --tied=false"),
    (
      dict(weight_drop=0.5, cell="lru"),
      r"--weight_drop needs a cell with recurrent weights U; lru\(4\) has none",
    ),
    (dict(bidirectional_lm=True, num_layers=2), r"--bidirectional_lm needs --num_layers=1; got 2"),
    (dict(batch_size=6), r"a batch of 6 does not divide evenly among 4 devices"),
    (dict(batch_size=400), r"cannot fill a batch of 400 columns.* A smaller --batch_size"),
    (dict(temperature=-1.0), r"--temperature must be 0 or more, and finite; got -1"),
    (dict(top_p=0.0), r"--top_p must be in \(0, 1\]; got 0"),
    (dict(dropout=1.0), r"--dropout must be less than 1; got 1"),
    (dict(text_file="/nowhere"), r"--text_file must be a file; '/nowhere' does not exist"),
    (dict(predict="x", workdir="/nowhere"), r"'/nowhere' is not the --workdir of a run"),
  ],
)
def test_invalid_flags_raise(grammar_file, options, words):
  """The message names the flag."""
  with pytest.raises(InvalidInputError, match=words):
    word_lm.run(Config(**TINY | {"text_file": grammar_file} | options))


def test_command_line_result(grammar_file, tmp_path):
  """Trains and generates; the last line of stdout is one JSON object."""
  flags = [f"--{name}={value}" for name, value in (TINY | {"sample_length": 3}).items()]
  process = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.word_lm",
      *flags,
      f"--text_file={grammar_file}",
      "--prompt=x",
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  *rows, text, last = process.stdout.splitlines()
  assert len(rows) == 9 and all(line.split()[1] == "x" for line in rows)
  assert text.startswith("x ") and len(text.split()) == 4
  result = json.loads(last)
  assert result["experiment"] == "word_lm" and result["cell"] == "lstm"
  assert result["test/perplexity"] == pytest.approx(math.exp(result["test/loss"]))


def test_overflowing_perplexity_is_infinite(grammar_file):
  """The other scores are still returned."""
  scores = word_lm.run(
    Config(**TINY | {"learning_rate": 3e5}, text_file=grammar_file, cache_size=5)
  )
  assert scores["test/loss"] > 800 and scores["test/perplexity"] == np.inf

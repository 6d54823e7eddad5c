"""Training, inference and command line of `experiments.imdb`."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import imdb
from experiments.text_classification import synthetic_reviews
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.types import InvalidInputError


@pytest.mark.parametrize("cell", ["vanilla", "lstm", "mingru"])
def test_every_cell_learns_word_order(cell):
  """Any bag of words is right on exactly half of the embedded reviews. The GRU is tested below."""
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
  options = {"embedding": "onehot"}
  if kind == "vectors":
    rng = np.random.default_rng(0)
    words = synthetic_reviews.POSITIVE_WORDS + synthetic_reviews.NEGATIVE_WORDS + ["not", "but"]
    rows = [" ".join([word, *(f"{x:.4f}" for x in rng.normal(size=8))]) for word in words]
    (tmp_path / "vectors").write_text("\n".join(rows))
    options = {"pretrained_embeddings": str(tmp_path / "vectors")}
  config = imdb.Config(
    cell="gru",
    dataset="embedded",
    ngram_order=0,
    epochs=3,
    learning_rate=0.01,
    pooling="last",
    **options,
  )
  assert imdb.run(config)["test/accuracy"] > 0.95


@pytest.fixture(scope="module")
def five_class_run(tmp_path_factory):
  """A run on labels 1 to 5, each the number of good words: its configuration and scores."""
  folder, rng = tmp_path_factory.mktemp("stars"), np.random.default_rng(0)
  for split, num_reviews in (("train", 600), ("test", 100)):
    with open(folder / f"{split}.jsonl", "w") as file:
      for _ in range(num_reviews):
        stars = int(rng.integers(1, 6))
        text = rng.permutation(["good"] * stars + ["bad"] * (6 - stars))
        file.write(json.dumps({"text": " ".join(text), "label": stars}) + "\n")
  config = imdb.Config(
    cell="gru",
    data_dir=str(folder),
    workdir=str(folder / "run"),
    batch_size=32,
    epochs=5,
    learning_rate=0.01,
    word_dropout=0.0,
  )
  return config, imdb.run(config)


def test_five_class_reviews(five_class_run):
  _, scores = five_class_run
  assert scores["test/accuracy"] > 0.9


def test_loaded_model_reproduces_test_accuracy(five_class_run):
  """With the n-gram features, which a saved trie looks up."""
  config, scores = five_class_run
  lines = (pathlib.Path(config.data_dir) / "test.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  predictions = imdb.load(config.workdir)([row["text"] for row in rows])
  correct = [max(p, key=p.get) == str(row["label"]) for p, row in zip(predictions, rows)]
  assert np.mean(correct) == pytest.approx(scores["test/accuracy"])
  for probabilities in predictions:
    assert sum(probabilities.values()) == pytest.approx(1)


def test_predict_prints_class_probabilities(five_class_run, capsys):
  config, _ = five_class_run
  result = imdb.run(imdb.Config(predict="good good good good bad bad", workdir=config.workdir))
  assert result["label"] == "4" and 0.2 < result["probability"] <= 1
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert {label for _, label in rows} == {*"12345"} and rows[0][1] == "4"
  assert float(rows[0][0]) == pytest.approx(result["probability"], abs=1e-3)


def test_predict_without_words_raises(five_class_run):
  config, _ = five_class_run
  with pytest.raises(InvalidInputError, match="each with at least one word"):
    imdb.run(imdb.Config(predict=" ", workdir=config.workdir))


def test_long_review_is_truncated(tmp_path):
  """N-grams are counted in the whole review, but batches are truncated."""
  long_text = "not a good film " * 250_000
  rows = [{"text": f"a {'good' if n % 2 else 'bad'} film", "label": n % 2} for n in range(40)]
  for split in ("train", "test"):
    lines = [json.dumps(row) for row in [*rows, {"text": long_text, "label": 1}]]
    (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
  data = imdb.prepare(
    imdb.Config(data_dir=str(tmp_path), batch_size=8, max_train_length=20, max_eval_length=50)
  )
  assert max(batch["lengths"].max() for batch in data.test) == 50
  assert all(len(batch["tokens"]) <= 20 for batch in data.train)
  assert len(data.test.sequences[-1]) == len(data.test.extras["features"][-1]) == 1_000_000

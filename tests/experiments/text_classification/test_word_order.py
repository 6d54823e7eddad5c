"""Bag-of-words models against recurrent models."""

import json

import pytest

from experiments import word_order
from experiments.word_order import Config
from rnnjax.types import InvalidInputError


@pytest.fixture(scope="module")
def run_scores(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("order")
  scores = word_order.run(
    Config(cell="vanilla", hidden_size=16, epochs=2, learning_rate=5e-3, workdir=str(workdir))
  )
  assert (workdir / "figures" / "order.png").stat().st_size > 5000
  return scores


def test_bag_of_words_is_at_chance(run_scores):
  """Both reviews of a pair are the same bag of words, so exactly one of them is right."""
  for name in ("counted_words", "TF-IDF", "MLP_on_mean_vectors"):
    assert run_scores[f"test/{name}"] == 0.5, name
  assert run_scores["test/vanilla"] > 0.9 and run_scores["valid/vanilla"] > 0.9
  json.dumps(run_scores)


def test_bag_of_words_learns_decisive_words():
  """If a single word determines the label, all bag-of-words models learn it."""
  words = "film plot cast singer scene".split()
  rows = [(f"a {'good' if i % 2 else 'bad'} {words[i % 5]} {i % 7}", i % 2) for i in range(1400)]
  for name, model in word_order.bag_of_words_models(Config(embed_dim=5)).items():
    texts, labels = zip(*rows[:1200])
    assert model.fit(texts, labels).score(*zip(*rows[1200:])) > 0.95, name


def test_data_dir_is_used(tmp_path):
  """--data_dir alone is enough: --dataset=auto reads the files."""
  for split, num_reviews in (("train", 80), ("test", 20)):
    rows = [
      {"text": f"a {'good' if i % 2 else 'bad'} film {i % 7}", "label": i % 2}
      for i in range(num_reviews)
    ]
    (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
  options = dict(cell="vanilla", hidden_size=8, epochs=1, embed_dim=3, batch_size=8)
  scores = word_order.run(Config(data_dir=str(tmp_path), **options))
  assert scores["dataset"] != "embedded"
  assert scores["test/counted_words"] == 1


def test_embed_dim_above_vocab_size_raises():
  with pytest.raises(
    InvalidInputError, match="--embed_dim must be at most the number of words, 40; got 50"
  ):
    word_order.run(Config(dataset="embedded", vocab_size=40))

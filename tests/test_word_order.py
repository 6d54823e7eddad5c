"""Bags of words against nets that read in order."""

import json

import pytest

from experiments import word_order
from experiments.word_order import Config
from rnnjax.types import BadInput


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
  out = tmp_path_factory.mktemp("order")
  found = word_order.run(Config(cell="vanilla", hidden=16, epochs=2, rate=5e-3, out=str(out)))
  assert (out / "figures" / "order.png").stat().st_size > 5000
  return found


def test_no_bag_beats_chance_where_order_is_all(scores):
  """Each twin of a pair is the same bag: whatever a bag says, it is right on half."""
  for name in ("counted_words", "TF-IDF", "MLP_on_mean_vectors"):
    assert scores[f"test/{name}"] == 0.5, name
  assert scores["test/vanilla"] > 0.9 and scores["valid/vanilla"] > 0.9
  json.dumps(scores)


def test_bags_learn_where_words_tell():
  """They are no straw men: of one word that decides, all of them learn."""
  words = "film plot cast singer scene".split()
  rows = [(f"a {'good' if i % 2 else 'bad'} {words[i % 5]} {i % 7}", i % 2) for i in range(1400)]
  for name, bag in word_order.bags(Config(width=5)).items():
    texts, labels = zip(*rows[:1200])
    assert bag.fit(texts, labels).score(*zip(*rows[1200:])) > 0.95, name


def test_files_are_read(tmp_path):
  """With --data_dir alone it is they that bags and nets see."""
  for part, number in (("train", 80), ("test", 20)):
    rows = [
      {"text": f"a {'good' if i % 2 else 'bad'} film {i % 7}", "label": i % 2}
      for i in range(number)
    ]
    (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
  how = dict(cell="vanilla", hidden=8, epochs=1, width=3, batch=8)
  scores = word_order.run(Config(data_dir=str(tmp_path), **how))
  assert scores["dataset"] != "embedded"
  assert scores["test/counted_words"] == 1


def test_vectors_wider_than_words_are_many_are_refused():
  with pytest.raises(BadInput, match="--width must be at most 40, the words; got 50"):
    word_order.run(Config(dataset="embedded", vocabulary=40))

"""Classifiers that vote: each says what it said when it was tested, and all say the mean."""

import json

import numpy as np
import pytest

from experiments import imdb, learning, vote
from rnnjax.types import BadInput

OWN = {"short": dict(vocabulary=8, evidence=2, limit=4), "long": dict(cell="gru", evidence=0)}


def rows(seed, number):
  """Reviews of up to nine words, of which those that praise are a little more often "good"."""
  draw = np.random.default_rng(seed)
  for _ in range(number):
    label = int(draw.integers(2))
    p = np.array([1 + 2 * label, 3 - 2 * label, 2, 2, 2])
    text = draw.choice(["good", "bad", "film", "plot", "cast"], draw.integers(1, 10), p=p / p.sum())
    yield {"text": " ".join(text), "label": label}


def folder(path, test, train=()):
  path.mkdir()
  for part, lines in {"train": train or rows(0, 300), "test": test}.items():
    (path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Two unlike runs of one folder: {their --out: what they scored}."""
  place, scores = tmp_path_factory.mktemp("runs"), {}
  data_dir = folder(place / "reviews", rows(1, 60))
  for name, own in OWN.items():
    out = str(place / name)
    how = dict(hidden=4, width=4, batch=32, epochs=3, rate=0.02, data_dir=data_dir, out=out)
    scores[out] = imdb.run(imdb.Config(**how | own))
  return scores


def opinions(out, **changes):
  return vote.opinions(out, *learning.restore(imdb.Config, out, "classes", **changes))


def test_each_says_what_it_said(runs):
  """Accuracies are those of the runs; two that are the same say no more than one."""
  found = vote.run(vote.Config(runs=",".join(runs)))
  for part in ("valid", "test"):
    each = [scores[f"{part}/accuracy"] for scores in runs.values()]
    np.testing.assert_allclose(found[f"{part}/each"], each, atol=1e-6)
  one, own = next(iter(runs.items()))
  twice = vote.run(vote.Config(runs=f"{one},{one}"))
  assert twice["test/accuracy"] == pytest.approx(own["test/accuracy"], abs=1e-6)


def test_all_say_the_mean(runs):
  """Of the probabilities of each review, one by one."""
  (p, labels), (q, _) = map(opinions, runs)
  both = zip(p["test"][:, 1], q["test"][:, 1], labels["test"], strict=True)
  right = [(a + b > 1) == label for a, b, label in both]
  assert np.abs(p["test"] - q["test"]).max() > 0
  assert vote.run(vote.Config(runs=",".join(runs)))["test/accuracy"] == np.mean(right)


def test_an_opinion_goes_to_its_review(runs, tmp_path):
  """Whatever batches they are read in: turned round, so are the opinions."""
  turned = folder(tmp_path / "turned", list(rows(1, 60))[::-1])
  for out in runs:
    (p, labels), (q, others) = opinions(out), opinions(out, data_dir=turned)
    np.testing.assert_array_equal(labels["test"], others["test"][::-1])
    np.testing.assert_allclose(p["test"], q["test"][::-1], atol=1e-6)


def test_misfits_are_refused(runs, tmp_path):
  """A run that is none, one of other reviews than are given, and two of different ones."""
  out = next(iter(runs))
  with pytest.raises(BadInput, match="'/nowhere' is not the --out of a run"):
    vote.run(vote.Config(runs=f"{out},/nowhere"))
  with pytest.raises(BadInput, match="--runs must name"):
    vote.run()
  other = folder(tmp_path / "other", rows(1, 59), [*rows(5, 30), {"text": "unheard", "label": 1}])
  with pytest.raises(BadInput, match=r"trained on other reviews than those of .*other"):
    vote.run(vote.Config(runs=out, data_dir=other))
  own = str(tmp_path / "own")
  how = dict(hidden=4, width=4, epochs=1, evidence=0, batch=8)
  imdb.run(imdb.Config(**how, data_dir=other, out=own))
  with pytest.raises(BadInput, match="--runs must be of the same reviews"):
    vote.run(vote.Config(runs=f"{out},{own}"))

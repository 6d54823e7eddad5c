"""F1 of spans against seqeval's strict one, on tags that are legal and on tags that are not."""

import jax
import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOBES, Entities

from experiments.sequence_tagging import bio_tags
from rnnjax.training import metrics

TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES")]
PIECES = bio_tags.span_tables(TAGS)
T, B = 9, 60
f1 = jax.jit(lambda found, true, live: metrics.span_f1(found, true, live, PIECES))


def tag_names(column):
  return [TAGS[tag] for tag in column]


def random_legal_tags(draw, length):
  """Whatever there is of O and I-X is legal IOB1."""
  some = draw.choice(["O", "I-LOC", "I-PER"], length).tolist()
  return [TAGS.index(tag) for tag in bio_tags.to_iobes(bio_tags.to_bio(some, "iob1"))]


def random_tags(seed):
  """Found [T, B], true [T, B] and lengths [B]: every second column legal, much of it found."""
  draw = np.random.default_rng(seed)
  found, true = draw.integers(0, len(TAGS), (2, T, B))
  lengths = draw.integers(0, T + 1, B)
  for b in range(0, B, 2):
    true[: lengths[b], b] = random_legal_tags(draw, lengths[b])
  copied = draw.random((T, B)) < draw.choice([0.5, 0.9, 1], B)
  return np.where(copied, true, found), true, lengths


def masked_f1(found, true, lengths):
  return f1(found, true, np.arange(T)[:, None] < lengths)


@pytest.mark.parametrize("seed", range(10))
def test_equals_seqeval(seed):
  """Of rows of several lengths, whatever stands behind their ends; and in sums over batches."""
  found, true, lengths = random_tags(seed)
  rows = [[tag_names(tags[:n, b]) for b, n in enumerate(lengths)] for tags in (true, found)]
  expected = f1_score(*rows, mode="strict", scheme=IOBES)
  assert 0.2 < expected < 0.95
  assert masked_f1(found, true, lengths).value == pytest.approx(expected)
  total = metrics.Mean(0.0, 0.0)
  for part in np.split(np.arange(B), [7, 20]):
    own = np.zeros(B, bool)
    own[part] = True
    total += masked_f1(found, true, np.where(own, lengths, 0))
  assert total.value == pytest.approx(expected)


def test_all_sequences_of_length_four():
  """Of all 6561: against itself each span is correct, and there are as many as seqeval sees."""
  every = np.indices((len(TAGS),) * 4).reshape(4, -1)
  live = np.ones((4, 1), bool)
  one = lambda column: metrics.span_f1(column[:, None], column[:, None], live, PIECES)
  correct, there = jax.jit(jax.vmap(one, 1))(every)
  expected = [len(row) for row in Entities([tag_names(c) for c in every.T], IOBES).entities]
  np.testing.assert_array_equal(there, 2 * np.array(expected))
  np.testing.assert_array_equal(correct, there)


@pytest.mark.parametrize(
  "found, true, expected",
  [
    ("B-PER E-PER O S-LOC", "B-PER E-PER O S-PER", (2, 4)),  # a type that is wrong
    ("B-PER I-PER E-PER O", "B-PER E-PER O O", (0, 2)),  # an end
    ("B-PER E-LOC O O", "B-PER E-PER O O", (0, 1)),  # broken off: none at all
    ("S-PER S-PER O O", "B-PER E-PER O O", (0, 3)),
    ("O O O O", "O O O O", (0, 0)),
  ],
)
def test_small_examples(found, true, expected):
  """Twice the correct, and the found and the true together."""
  ids = (np.array([[TAGS.index(tag)] for tag in tags.split()]) for tags in (found, true))
  assert metrics.span_f1(*ids, np.ones((4, 1), bool), PIECES) == expected

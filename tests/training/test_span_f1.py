"""The F1 score of spans against the strict mode of seqeval, on legal and illegal tags."""

import functools

import jax
import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOBES, Entities

from experiments.sequence_tagging import bio_tags
from rnnjax.training import metrics

TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES")]
SPAN_TABLES = bio_tags.span_tables(TAGS)
T, B = 9, 60
span_f1 = jax.jit(functools.partial(metrics.span_f1, span_tables=SPAN_TABLES))


def tag_names(column):
  return [TAGS[tag] for tag in column]


def random_legal_tags(rng, length):
  """Return random tags that are legal: any sequence of O and I-X is legal in IOB1."""
  tags = rng.choice(["O", "I-LOC", "I-PER"], length).tolist()
  return [TAGS.index(tag) for tag in bio_tags.to_iobes(bio_tags.to_bio(tags, "iob1"))]


def random_tags(seed):
  """Return predictions [T, B], targets [T, B] and lengths [B].

  The targets of every second column are legal, and many predictions are correct.
  """
  rng = np.random.default_rng(seed)
  predicted, target = rng.integers(0, len(TAGS), (2, T, B))
  lengths = rng.integers(0, T + 1, B)
  for b in range(0, B, 2):
    target[: lengths[b], b] = random_legal_tags(rng, lengths[b])
  copied = rng.random((T, B)) < rng.choice([0.5, 0.9, 1], B)
  return np.where(copied, target, predicted), target, lengths


def masked_f1(predicted, target, lengths):
  return span_f1(predicted, target, np.arange(T)[:, None] < lengths)


@pytest.mark.parametrize("seed", range(10))
def test_equals_seqeval(seed):
  """For rows of different lengths with arbitrary padding, and as a sum over batches."""
  predicted, target, lengths = random_tags(seed)
  rows = [[tag_names(tags[:n, b]) for b, n in enumerate(lengths)] for tags in (target, predicted)]
  expected = f1_score(*rows, mode="strict", scheme=IOBES)
  assert 0.2 < expected < 0.95
  assert masked_f1(predicted, target, lengths).value == pytest.approx(expected)
  total = metrics.Mean(0.0, 0.0)
  for part in np.split(np.arange(B), [7, 20]):
    selected = np.zeros(B, bool)
    selected[part] = True
    total += masked_f1(predicted, target, np.where(selected, lengths, 0))
  assert total.value == pytest.approx(expected)


def test_all_sequences_of_length_four():
  """All 6561 sequences: compared with itself each span is correct; seqeval finds as many."""
  sequences = np.indices((len(TAGS),) * 4).reshape(4, -1)
  mask = np.ones((4, 1), bool)
  one = lambda column: metrics.span_f1(column[:, None], column[:, None], mask, SPAN_TABLES)
  correct, num_spans = jax.jit(jax.vmap(one, 1))(sequences)
  expected = [len(row) for row in Entities([tag_names(c) for c in sequences.T], IOBES).entities]
  np.testing.assert_array_equal(num_spans, 2 * np.array(expected))
  np.testing.assert_array_equal(correct, num_spans)


@pytest.mark.parametrize(
  "predicted, target, expected",
  [
    ("B-PER E-PER O S-LOC", "B-PER E-PER O S-PER", (2, 4)),  # a wrong type
    ("B-PER I-PER E-PER O", "B-PER E-PER O O", (0, 2)),  # a wrong end
    ("B-PER E-LOC O O", "B-PER E-PER O O", (0, 1)),  # an unfinished span does not count
    ("S-PER S-PER O O", "B-PER E-PER O O", (0, 3)),
    ("O O O O", "O O O O", (0, 0)),
  ],
)
def test_small_examples(predicted, target, expected):
  """(2 × correct spans, predicted + target spans)."""
  ids = (np.array([[TAGS.index(tag)] for tag in tags.split()]) for tags in (predicted, target))
  assert metrics.span_f1(*ids, np.ones((4, 1), bool), SPAN_TABLES) == expected

"""Columns of a text: what each batch reads, where the next goes on, and what is weighed.

Token i of the text is i, so that a batch tells which places it holds.
"""

import itertools
import math

import numpy as np
import pytest

from rnnjax.data.bptt_batches import BpttBatches

# Tokens, columns, steps: dividing evenly, not at all, and columns shorter than the window.
SIZES = [(60, 3, 10), (101, 4, 5), (250, 7, 6), (30, 1, 7), (10, 4, 8)]
over_sizes = pytest.mark.parametrize("N, B, T", SIZES)


def epoch_batches(columns, number=0):
  """The batches of one epoch of training."""
  return list(itertools.islice(columns.stream(number * len(columns)), len(columns)))


def batch_tokens(batches):
  return [batch["tokens"] for batch in batches]


@over_sizes
@pytest.mark.parametrize("number", [0, 1])
def test_columns_are_contiguous_and_wrap_around(N, B, T, number):
  """Down each column stand neighbours, batch after batch, each batch from where the last ended."""
  batches = epoch_batches(BpttBatches(np.arange(N), B, T, seed=3), number)
  for batch in batches:
    assert batch["tokens"].shape == (T + 1, B)
    np.testing.assert_array_equal(batch["weights"], np.ones((T, B)))
  for one, two in itertools.pairwise(batch_tokens(batches)):
    np.testing.assert_array_equal(one[-1], two[0])
  column = np.concatenate([batch["tokens"][:-1] for batch in batches])
  np.testing.assert_array_equal(column, (column[0] + np.arange(len(column))[:, None]) % N)


@pytest.mark.parametrize("N, B, T", SIZES[:-1])
def test_epoch_reads_each_token_at_most_once(N, B, T):
  """No token is read twice, and fewer than a batch of them not at all."""
  columns = BpttBatches(np.arange(N), B, T, seed=0)
  for number in range(3):
    read = np.concatenate(
      [batch["tokens"][:-1].ravel() for batch in epoch_batches(columns, number)]
    )
    assert len(set(read)) == len(read) > N - B * T


def test_skipped_tokens_differ_between_epochs():
  """The cut is drawn anew, so over some epochs every pair of neighbours is read."""
  columns = BpttBatches(np.arange(101), 4, 10, seed=0)
  starts = [int(epoch_batches(columns, number)[0]["tokens"][0, 0]) for number in range(20)]
  assert len(set(starts)) > 10
  read = [epoch_batches(columns, number) for number in range(20)]
  assert {int(t) for batch in itertools.chain(*read) for t in batch["tokens"][:-1].flat} == {
    *range(101)
  }


@over_sizes
@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_batches_depend_only_on_seed_and_step(N, B, T, step):
  """stream(n) begins with the n-th batch of stream(), across epochs; another seed differs."""
  make = lambda seed: BpttBatches(np.arange(N), B, T, seed)
  expected = batch_tokens(itertools.islice(make(1).stream(), step, step + 4))
  np.testing.assert_array_equal(batch_tokens(itertools.islice(make(1).stream(step), 4)), expected)
  others = [batch_tokens(itertools.islice(make(seed).stream(step), 4)) for seed in (2, 3)]
  assert not all(np.array_equal(other, expected) for other in others)


@pytest.mark.parametrize("N, B, T", [*SIZES, (2, 1, 4), (2, 2, 1), (9, 5, 2), (5, 5, 3)])
@pytest.mark.parametrize("warm", [0, 1, 5, 40])
def test_evaluation_weights_each_pair_once(N, B, T, warm):
  """All of (w₀, w₁) ... (w_N₋₂, w_N₋₁) and no other, in the fewest batches, as len() counts."""
  columns, counts = BpttBatches(np.arange(N), B, T, context_len=warm), np.zeros(N - 1, int)
  batches = list(columns)
  for batch in batches:
    assert set(batch["weights"].flat) <= {0, 1}
    one, two = (part[batch["weights"] == 1] for part in (batch["tokens"][:-1], batch["tokens"][1:]))
    np.testing.assert_array_equal(two, one + 1)
    np.add.at(counts, one, 1)
  np.testing.assert_array_equal(counts, 1)
  fewest = math.ceil((math.ceil((N - 1) / B) + warm) / T)
  assert len(batches) == len(columns) == fewest
  for batch, again in zip(batches, columns, strict=True):
    np.testing.assert_array_equal(batch["tokens"], again["tokens"])


@over_sizes
@pytest.mark.parametrize("warm", [0, 1, 5, 40])
def test_warmup_tokens_precede_each_column(N, B, T, warm):
  """Before its first weighed token stand the `warm` ones before it, unweighed, or the text's first.

  And the batches of a column hang together.
  """
  batches = list(BpttBatches(np.arange(N), B, T, context_len=warm))
  for one, two in itertools.pairwise(batch_tokens(batches)):
    np.testing.assert_array_equal(one[-1], two[0])
  read = np.concatenate([batch["tokens"][:-1] for batch in batches])
  weighed = np.concatenate([batch["weights"] for batch in batches])
  for column, weights in zip(read.T, weighed.T, strict=True):
    if weights.any():
      assert weights.argmax() == warm
      before = [max(column[warm] - n, 0) for n in range(warm, 0, -1)]
      np.testing.assert_array_equal(column[:warm], before)


def test_token_ids_are_preserved():
  """What is read are the ids that stand at those places."""
  text = np.random.default_rng(0).integers(0, 9, 50).astype(np.int32)
  for seed in (None, 4):
    places, ids = (BpttBatches(t, 3, 4, seed, context_len=2) for t in (np.arange(50), text))
    for at, read in itertools.islice(zip(places.stream(), ids.stream()), 8):
      np.testing.assert_array_equal(read["tokens"], text[at["tokens"]])
  for at, read in zip(places, ids, strict=True):
    np.testing.assert_array_equal(read["tokens"], text[at["tokens"]])


@pytest.mark.parametrize(
  "N, B, message",
  [
    (0, 1, "a text of 0 tokens cannot fill a batch of 1 columns"),
    (1, 1, "of 1 tokens cannot fill .* of 1 columns; it needs .* two in all"),
    (3, 4, "of 3 tokens cannot fill .* of 4 columns; it needs at least one token a column"),
  ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_too_short_text_raises(N, B, message, seed):
  with pytest.raises(ValueError, match=message):
    BpttBatches(np.arange(N), B, 5, seed)

"""BpttBatches: contiguity of columns, weights, and dependence on seed and step.

Token i of the text is i, so that a batch shows which positions it contains.
"""

import itertools
import math

import numpy as np
import pytest

from rnnjax.data.bptt_batches import BpttBatches

# Tokens, columns, window length: divisible, not divisible, and columns shorter than the window.
SIZES = [(60, 3, 10), (101, 4, 5), (250, 7, 6), (30, 1, 7), (10, 4, 8)]
over_sizes = pytest.mark.parametrize("N, B, T", SIZES)


def epoch_batches(batches, epoch=0):
  """Return the batches of one training epoch."""
  return list(itertools.islice(batches.stream(epoch * len(batches)), len(batches)))


def batch_tokens(batches):
  return [batch["tokens"] for batch in batches]


@over_sizes
@pytest.mark.parametrize("epoch", [0, 1])
def test_columns_are_contiguous_and_wrap_around(N, B, T, epoch):
  """Each column continues in the next batch where the previous one ended."""
  batches = epoch_batches(BpttBatches(np.arange(N), B, T, seed=3), epoch)
  for batch in batches:
    assert batch["tokens"].shape == (T + 1, B)
    np.testing.assert_array_equal(batch["weights"], np.ones((T, B)))
  for previous, tokens in itertools.pairwise(batch_tokens(batches)):
    np.testing.assert_array_equal(previous[-1], tokens[0])
  column = np.concatenate([batch["tokens"][:-1] for batch in batches])
  np.testing.assert_array_equal(column, (column[0] + np.arange(len(column))[:, None]) % N)


@pytest.mark.parametrize("N, B, T", SIZES[:-1])
def test_epoch_reads_each_token_at_most_once(N, B, T):
  """Fewer tokens than a batch holds are skipped."""
  batches = BpttBatches(np.arange(N), B, T, seed=0)
  for epoch in range(3):
    tokens = np.concatenate(
      [batch["tokens"][:-1].ravel() for batch in epoch_batches(batches, epoch)]
    )
    assert len(set(tokens)) == len(tokens) > N - B * T


def test_skipped_tokens_differ_between_epochs():
  """Each epoch is cut at a random position, so that all tokens are read over some epochs."""
  batches = BpttBatches(np.arange(101), 4, 10, seed=0)
  epochs = [epoch_batches(batches, epoch) for epoch in range(20)]
  assert len({int(epoch[0]["tokens"][0, 0]) for epoch in epochs}) > 10
  tokens = {int(t) for batch in itertools.chain(*epochs) for t in batch["tokens"][:-1].flat}
  assert tokens == {*range(101)}


@over_sizes
@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_batches_depend_only_on_seed_and_step(N, B, T, step):
  """stream(n) begins with the n-th batch of stream(), across epochs; another seed differs."""

  def four_batches(seed, first, skip=0):
    batches = BpttBatches(np.arange(N), B, T, seed).stream(first)
    return batch_tokens(itertools.islice(batches, skip, skip + 4))

  expected = four_batches(1, 0, skip=step)
  np.testing.assert_array_equal(four_batches(1, step), expected)
  assert not all(np.array_equal(four_batches(seed, step), expected) for seed in (2, 3))


@pytest.mark.parametrize("N, B, T", [*SIZES, (2, 1, 4), (2, 2, 1), (9, 5, 2), (5, 5, 3)])
@pytest.mark.parametrize("context_len", [0, 1, 5, 40])
def test_evaluation_weights_each_pair_once(N, B, T, context_len):
  """Every pair of neighboring tokens has weight 1 once, in the fewest batches."""
  batches = BpttBatches(np.arange(N), B, T, context_len=context_len)
  counts = np.zeros(N - 1, int)
  first_pass = list(batches)
  for batch in first_pass:
    assert set(batch["weights"].flat) <= {0, 1}
    has_weight = batch["weights"] == 1
    inputs, targets = batch["tokens"][:-1][has_weight], batch["tokens"][1:][has_weight]
    np.testing.assert_array_equal(targets, inputs + 1)
    np.add.at(counts, inputs, 1)
  np.testing.assert_array_equal(counts, 1)
  fewest = math.ceil((math.ceil((N - 1) / B) + context_len) / T)
  assert len(first_pass) == len(batches) == fewest
  for batch, again in zip(first_pass, batches, strict=True):
    np.testing.assert_array_equal(batch["tokens"], again["tokens"])


@over_sizes
@pytest.mark.parametrize("context_len", [0, 1, 5, 40])
def test_context_tokens_precede_each_column(N, B, T, context_len):
  """Each column begins with its context, of weight 0; before the text, the first token repeats."""
  batches = list(BpttBatches(np.arange(N), B, T, context_len=context_len))
  for previous, tokens in itertools.pairwise(batch_tokens(batches)):
    np.testing.assert_array_equal(previous[-1], tokens[0])
  columns = np.concatenate([batch["tokens"][:-1] for batch in batches]).T
  column_weights = np.concatenate([batch["weights"] for batch in batches]).T
  for column, weights in zip(columns, column_weights, strict=True):
    if weights.any():
      assert weights.argmax() == context_len
      context = [max(column[context_len] - n, 0) for n in range(context_len, 0, -1)]
      np.testing.assert_array_equal(column[:context_len], context)


def test_token_ids_are_preserved():
  text = np.random.default_rng(0).integers(0, 9, 50).astype(np.int32)
  for seed in (None, 4):
    positions, ids = (BpttBatches(t, 3, 4, seed, context_len=2) for t in (np.arange(50), text))
    for position, batch in itertools.islice(zip(positions.stream(), ids.stream()), 8):
      np.testing.assert_array_equal(batch["tokens"], text[position["tokens"]])
  for position, batch in zip(positions, ids, strict=True):
    np.testing.assert_array_equal(batch["tokens"], text[position["tokens"]])


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

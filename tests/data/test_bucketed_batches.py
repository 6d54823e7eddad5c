"""Batches: which rows, in which order, padded where, of how many shapes."""

import itertools

import numpy as np
import pytest

from rnnjax.data.bucketed_batches import BucketedBatches, bucket_boundaries

# Sequence i consists of the token i + 1, so that a batch tells which rows it holds.
SIZES = [3, 0, 7, 12, 1, 20, 5, 9, 16, 2, 4]
SEQUENCES = [np.full(size, i + 1) for i, size in enumerate(SIZES)]
LABELS = [i % 3 for i in range(len(SIZES))]


def make_batches(times=1, **options):
  """Few rows; of many, further lengths are worth a shape."""
  how = {"batch_size": 4, "max_length": 16, "max_buckets": 3, "seed": 1} | options
  return BucketedBatches(SEQUENCES * times, LABELS * times, **how)


def batches_equal(a, b):
  return all(np.array_equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_batches_depend_only_on_seed_and_step(step):
  """stream(n) begins with the n-th batch of stream(0), across epochs; another seed differs."""
  expected = list(itertools.islice(make_batches().stream(), step, step + 4))
  got = list(itertools.islice(make_batches().stream(step), 4))
  assert all(map(batches_equal, got, expected))
  other = itertools.islice(make_batches(seed=2).stream(step), 4)
  assert not all(map(batches_equal, got, other))


def test_each_epoch_is_reshuffled():
  """Each epoch shuffles anew."""
  one, two = (list(itertools.islice(make_batches().stream(n), 3)) for n in (0, 3))
  assert not all(map(batches_equal, one, two))


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_row_once_per_epoch(seed, epoch):
  """Every row comes exactly once, with its label and length; what fills up weighs nothing."""
  batches = make_batches(seed=seed)
  seen = []
  for batch in itertools.islice(batches.stream(epoch * len(batches)), len(batches)):
    for b in np.flatnonzero(batch["weights"]):
      n = batch["lengths"][b]
      row = batch["tokens"][0, b] - 1 if n else SIZES.index(0)
      assert n == min(SIZES[row], 16) and batch["labels"][b] == LABELS[row]
      row_tokens = np.pad([row + 1] * n, (0, len(batch["tokens"]) - n))
      np.testing.assert_array_equal(batch["tokens"][:, b], row_tokens)
      seen.append(row)
    filled = batch["weights"] == 0
    assert not batch["lengths"][filled].any() and not batch["tokens"][:, filled].any()
  assert sorted(seen) == list(range(len(SIZES)))


@pytest.mark.parametrize("keep, kept", [("first", [1, 2, 3]), ("last", [3, 4, 5])])
@pytest.mark.parametrize(
  "padding, expected",
  [
    ("back", lambda kept: [kept, [6, 7, 0], [0, 0, 0]]),
    ("front", lambda kept: [kept, [0, 6, 7], [0, 0, 0]]),
  ],
)
def test_truncation_and_padding_sides(keep, kept, padding, expected):
  """The kept end of a long row, zeros behind or in front of a short one, an empty one all zeros."""
  sequences = [np.arange(1, 6), np.array([6, 7]), np.array([], int)]
  (batch,) = BucketedBatches(sequences, [0, 1, 2], 3, 3, keep, padding)
  rows = sorted(batch["tokens"].T.tolist(), key=sum)
  assert rows == sorted(expected(kept), key=sum)
  lengths = [3, 3, 3] if padding == "front" else [0, 2, 3]
  assert sorted(batch["lengths"].tolist()) == lengths


def test_number_of_lengths_is_at_most_buckets():
  """No more values of T than buckets, each a bound, and each the tightest; of few rows fewer."""
  assert len(make_batches(max_buckets=3, batch_size=2).boundaries) < 3
  batches = make_batches(20, max_buckets=3, batch_size=2)
  taken = list(itertools.islice(batches.stream(), 3 * len(batches)))
  assert {len(batch["tokens"]) for batch in taken} == set(batches.boundaries.tolist())
  assert len(batches.boundaries) == 3
  for batch in taken:
    smaller = [bound for bound in batches.boundaries if bound < len(batch["tokens"])]
    assert all(bound < batch["lengths"].max() for bound in smaller)


def test_bucket_bounds_minimize_padding():
  """As every choice of so many lengths says; fewer lengths do where little would be spared."""
  draw = np.random.default_rng(0)
  for _ in range(100):
    lengths, k = draw.integers(0, 9, draw.integers(1, 20)), int(draw.integers(1, 5))
    full = np.maximum(lengths, 1)
    steps = lambda tops: np.take(tops, np.searchsorted(tops, full)).sum()  # noqa: B023
    below, longest = np.unique(full)[:-1], full.max()
    choices = itertools.chain(*(itertools.combinations(below, n) for n in range(k)))
    least = min(steps([*some, longest]) for some in choices)
    found = bucket_boundaries(lengths, k)
    assert len(found) <= k and (np.diff(found) > 0).all() and steps(found) == least
  few = [10] * 99 + [9, 9]
  assert (
    bucket_boundaries(few, 2).tolist() == bucket_boundaries(few, 3, 1.9).tolist() == [9, 10]
  )  # which spares two steps
  assert bucket_boundaries(few, 3, 2.0).tolist() == [10]
  assert bucket_boundaries([*range(1, 5000)], 2, max_candidates=50)[-1] == 4999


TARGETS = [np.full(3 * (i % 4) + i + 1, 100 + i) for i in range(len(SIZES))]
PAIRED = {"max_length": 20, "batch_size": 2, "targets": TARGETS}


@pytest.mark.parametrize("seed, epoch", [(None, 0), (1, 0), (1, 2)])
def test_targets_stay_paired_with_sequences(seed, epoch):
  """Each pair once an epoch, whole, zeros behind it; what fills up has no length."""
  batches, seen = make_batches(**PAIRED, seed=seed), []
  for batch in itertools.islice(batches.stream(epoch * len(batches)), len(batches)):
    for b, weight in enumerate(batch["weights"]):
      n, m = batch["lengths"][b], batch["target_lengths"][b]
      assert not batch["targets"][m:, b].any() and not batch["tokens"][n:, b].any()
      if not weight:
        assert n == m == 0
        continue
      row = batch["targets"][0, b] - 100
      np.testing.assert_array_equal(batch["targets"][:m, b], TARGETS[row])
      np.testing.assert_array_equal(batch["tokens"][:n, b], SEQUENCES[row])
      assert batch["labels"][b] == LABELS[row]
      seen.append(row)
  assert sorted(seen) == list(range(len(SIZES)))


def test_target_batches_depend_only_on_seed_and_step():
  """In the middle of an epoch as from its start."""
  expected = list(itertools.islice(make_batches(**PAIRED).stream(), 4, 12))
  assert all(map(batches_equal, make_batches(**PAIRED).stream(4), expected))


def test_number_of_target_lengths_is_at_most_buckets():
  """No more values of T or of U than buckets, and each U the tightest of its bounds."""
  batches = make_batches(60, **PAIRED | {"targets": TARGETS * 60})
  taken = list(itertools.islice(batches.stream(), 6 * len(batches)))
  lengths = {len(batch["targets"]) for batch in taken}
  assert lengths <= {*batches.target_boundaries.tolist()} and len(batches.target_boundaries) <= 3
  assert len(lengths) > 1 and len({len(batch["tokens"]) for batch in taken}) <= 3
  for batch in taken:
    smaller = [bound for bound in batches.target_boundaries if bound < len(batch["targets"])]
    assert all(bound < batch["target_lengths"].max() for bound in smaller)


def test_equal_length_sources_are_batched_by_target_length():
  """Sources of one length are told apart by their targets': little is padding."""
  targets = [np.full(n, 1) for n in np.random.default_rng(0).permutation(np.repeat([8, 80], 50))]
  sequences = [np.full(4, 1)] * 100
  for seed in (None, 0):
    batches = BucketedBatches(sequences, None, 10, seed=seed, targets=targets)
    assert all(len({*batch["target_lengths"].tolist()}) == 1 for batch in batches)


def test_invalid_options_raise():
  """Misspelt options and empty data are refused."""
  with pytest.raises(ValueError, match=r"^truncation must be .*'first'.*'last'.*; got 'middle'"):
    make_batches(truncation="middle")
  with pytest.raises(ValueError, match=r"^padding must be .*'back'.*'front'.*; got 'left'"):
    make_batches(padding="left")
  with pytest.raises(ValueError, match="no sequences"):
    BucketedBatches([], [], 4, 16)

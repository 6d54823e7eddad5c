"""BucketedBatches: rows, order, truncation, padding, and the number of shapes."""

import itertools

import numpy as np
import pytest

from rnnjax.data.bucketed_batches import BucketedBatches, bucket_boundaries

# Sequence i consists of the token i + 1, so that a batch shows which rows it contains.
SIZES = [3, 0, 7, 12, 1, 20, 5, 9, 16, 2, 4]
SEQUENCES = [np.full(size, i + 1) for i, size in enumerate(SIZES)]
LABELS = [i % 3 for i in range(len(SIZES))]


def make_batches(repeats=1, **options):
  """Return batches of a few sequences; with many repeats, more lengths are worth a shape."""
  options = {"batch_size": 4, "max_length": 16, "max_buckets": 3, "seed": 1} | options
  return BucketedBatches(SEQUENCES * repeats, LABELS * repeats, **options)


def batches_equal(a, b):
  return all(np.array_equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_batches_depend_only_on_seed_and_step(step):
  """stream(n) begins with the n-th batch of stream(0), across epochs; another seed differs."""
  expected = list(itertools.islice(make_batches().stream(), step, step + 4))
  batches = list(itertools.islice(make_batches().stream(step), 4))
  assert all(map(batches_equal, batches, expected))
  other_seed = itertools.islice(make_batches(seed=2).stream(step), 4)
  assert not all(map(batches_equal, batches, other_seed))


def test_each_epoch_is_reshuffled():
  first, second = (list(itertools.islice(make_batches().stream(n), 3)) for n in (0, 3))
  assert not all(map(batches_equal, first, second))


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_row_once_per_epoch(seed, epoch):
  """Every row occurs once, with its label and length; filling rows have weight 0."""
  batches = make_batches(seed=seed)
  rows = []
  for batch in itertools.islice(batches.stream(epoch * len(batches)), len(batches)):
    for b in np.flatnonzero(batch["weights"]):
      n = batch["lengths"][b]
      row = batch["tokens"][0, b] - 1 if n else SIZES.index(0)
      assert n == min(SIZES[row], 16) and batch["labels"][b] == LABELS[row]
      row_tokens = np.pad([row + 1] * n, (0, len(batch["tokens"]) - n))
      np.testing.assert_array_equal(batch["tokens"][:, b], row_tokens)
      rows.append(row)
    filling = batch["weights"] == 0
    assert not batch["lengths"][filling].any() and not batch["tokens"][:, filling].any()
  assert sorted(rows) == list(range(len(SIZES)))


@pytest.mark.parametrize("truncation, truncated", [("first", [1, 2, 3]), ("last", [3, 4, 5])])
@pytest.mark.parametrize("padding, padded", [("back", [6, 7, 0]), ("front", [0, 6, 7])])
def test_truncation_and_padding_sides(truncation, truncated, padding, padded):
  """An empty row consists of padding."""
  sequences = [np.arange(1, 6), np.array([6, 7]), np.array([], int)]
  (batch,) = BucketedBatches(sequences, [0, 1, 2], 3, 3, truncation, padding)
  rows = sorted(batch["tokens"].T.tolist(), key=sum)
  assert rows == sorted([truncated, padded, [0, 0, 0]], key=sum)
  lengths = [3, 3, 3] if padding == "front" else [0, 2, 3]
  assert sorted(batch["lengths"].tolist()) == lengths


def test_number_of_lengths_is_at_most_buckets():
  """Each T is the smallest boundary that fits; few rows get fewer boundaries."""
  assert len(make_batches(max_buckets=3, batch_size=2).boundaries) < 3
  batches = make_batches(20, max_buckets=3, batch_size=2)
  three_epochs = list(itertools.islice(batches.stream(), 3 * len(batches)))
  assert {len(batch["tokens"]) for batch in three_epochs} == set(batches.boundaries.tolist())
  assert len(batches.boundaries) == 3
  for batch in three_epochs:
    smaller = [bound for bound in batches.boundaries if bound < len(batch["tokens"])]
    assert all(bound < batch["lengths"].max() for bound in smaller)


def test_bucket_bounds_minimize_padding():
  """The boundaries are as good as the best of all combinations of lengths."""

  def num_steps(boundaries, lengths):
    return np.take(boundaries, np.searchsorted(boundaries, lengths)).sum()

  rng = np.random.default_rng(0)
  for _ in range(100):
    lengths, k = rng.integers(0, 9, rng.integers(1, 20)), int(rng.integers(1, 5))
    padded = np.maximum(lengths, 1)
    shorter, longest = np.unique(padded)[:-1], padded.max()
    choices = itertools.chain(*(itertools.combinations(shorter, n) for n in range(k)))
    least = min(num_steps([*choice, longest], padded) for choice in choices)
    boundaries = bucket_boundaries(lengths, k)
    assert len(boundaries) <= k and (np.diff(boundaries) > 0).all()
    assert num_steps(boundaries, padded) == least
  lengths = [10] * 99 + [9, 9]  # a boundary at 9 saves two steps
  assert bucket_boundaries(lengths, 2).tolist() == [9, 10]
  assert bucket_boundaries(lengths, 3, 1.9).tolist() == [9, 10]
  assert bucket_boundaries(lengths, 3, 2.0).tolist() == [10]
  assert bucket_boundaries([*range(1, 5000)], 2, max_candidates=50)[-1] == 4999


TARGETS = [np.full(3 * (i % 4) + i + 1, 100 + i) for i in range(len(SIZES))]
PAIRED = {"max_length": 20, "batch_size": 2, "targets": TARGETS}


@pytest.mark.parametrize("seed, epoch", [(None, 0), (1, 0), (1, 2)])
def test_targets_stay_paired_with_sequences(seed, epoch):
  """Every pair occurs once an epoch, followed by padding; filling rows have length 0."""
  batches, rows = make_batches(**PAIRED, seed=seed), []
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
      rows.append(row)
  assert sorted(rows) == list(range(len(SIZES)))


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_extras_are_aligned_with_tokens(targets):
  extras = {"doubled": [np.float32(2 * sequence) for sequence in SEQUENCES]}
  for batch in make_batches(batch_size=3, max_length=9, targets=targets, extras=extras):
    assert batch["doubled"].dtype == np.float32
    np.testing.assert_array_equal(batch["doubled"], 2 * batch["tokens"])


def test_target_batches_depend_only_on_seed_and_step():
  expected = list(itertools.islice(make_batches(**PAIRED).stream(), 4, 12))
  assert all(map(batches_equal, make_batches(**PAIRED).stream(4), expected))


def test_number_of_target_lengths_is_at_most_buckets():
  """Each U is the smallest boundary that fits."""
  batches = make_batches(60, **PAIRED | {"targets": TARGETS * 60})
  six_epochs = list(itertools.islice(batches.stream(), 6 * len(batches)))
  lengths = {len(batch["targets"]) for batch in six_epochs}
  assert lengths <= {*batches.target_boundaries.tolist()} and len(batches.target_boundaries) <= 3
  assert len(lengths) > 1 and len({len(batch["tokens"]) for batch in six_epochs}) <= 3
  for batch in six_epochs:
    smaller = [bound for bound in batches.target_boundaries if bound < len(batch["targets"])]
    assert all(bound < batch["target_lengths"].max() for bound in smaller)


def test_equal_length_sources_are_batched_by_target_length():
  targets = [np.full(n, 1) for n in np.random.default_rng(0).permutation(np.repeat([8, 80], 50))]
  sequences = [np.full(4, 1)] * 100
  for seed in (None, 0):
    batches = BucketedBatches(sequences, None, 10, seed=seed, targets=targets)
    assert all(len({*batch["target_lengths"].tolist()}) == 1 for batch in batches)


def test_invalid_options_raise():
  with pytest.raises(ValueError, match=r"^truncation must be .*'first'.*'last'.*; got 'middle'"):
    make_batches(truncation="middle")
  with pytest.raises(ValueError, match=r"^padding must be .*'back'.*'front'.*; got 'left'"):
    make_batches(padding="left")
  with pytest.raises(ValueError, match="no sequences"):
    BucketedBatches([], [], 4, 16)

"""Batches of sequences, of few shapes and little padding.

Which rows make up the n-th batch is a function of the seed and n alone, so the whole state of
the data is the number of steps taken: a run that resumes at step n sees what it would have seen.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rnnjax.data.vocabulary import PAD

TRUNCATIONS = ("first", "last", "window")
PADDINGS = ("back", "front")
MIN_SAVED_BATCHES = 4  # batches that must be spared in a pass for a shape to be compiled


@dataclasses.dataclass(frozen=True)
class BucketedBatches:
  """Batches {"tokens": [T, B], "lengths": [B], "weights": [B]}, time-major, and where there are any
  "labels": [B], "targets": [U, B] and "target_lengths": [B], and what goes along with the tokens,
  [T, B, ...] under its own names. Instead of ids, a token may be a vector: then [T, B, D], float32.

  Rows of like lengths share a batch: T and U are each one of at most `buckets` lengths, those that
  make for the least padding, and fewer where another would spare less than it takes to compile. A
  batch that runs short is filled with rows of weight 0.

  Attributes:
    sequences: arrays [T] of token ids, or [T, D] of vectors, any lengths.
    labels: one for each, or None.
    batch: B.
    limit: longer sequences are cut to so many tokens; none are where it is left out.
    keep: what survives the cut: the "first" or "last" tokens, or a "window" drawn each time.
    padding: "back" (lengths tell where a row ends) or "front" (every row is filled with zeros in
      front to `limit` and counts as full, the way many lecture notes do it).
    buckets: how many values of T at most, and of U.
    seed: of the shuffle; None keeps the order of lengths, for evaluation.
    targets: sequences of ids that the sequences become, of their own lengths, or None.
    beside: {name: arrays [T, ...], one for each sequence}, which go along with the tokens.
    rows: which rows of a batch are read, the share of one host of many; None for all B.
  """

  sequences: Sequence[np.ndarray]
  labels: Sequence[int] | None
  batch_size: int
  max_length: int = sys.maxsize
  truncation: str = "first"
  padding: str = "back"
  max_buckets: int = 10
  seed: int | None = None
  targets: Sequence[np.ndarray] | None = None
  extras: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
  host_rows: tuple[int, ...] | None = None

  def __post_init__(self):
    if self.truncation not in TRUNCATIONS:
      raise ValueError(f"keep must be one of {TRUNCATIONS}; got {self.truncation!r}")
    if self.padding not in PADDINGS:
      raise ValueError(f"padding must be one of {PADDINGS}; got {self.padding!r}")
    if self.padding == "front" and self.max_length == sys.maxsize:
      raise ValueError("padding='front' fills every row to the limit, which it needs")
    if not len(self.sequences):
      raise ValueError("there are no sequences to make batches of")

  def __len__(self) -> int:
    """Batches in an epoch."""
    return -(-len(self.sequences) // self.batch_size)

  def select_rows(self, rows: Sequence[int]) -> "BucketedBatches":
    """The same batches, of which only so many rows are read."""
    return dataclasses.replace(self, rows=tuple(rows))

  def _epoch_rows(self, epoch: int) -> list[np.ndarray]:
    """The rows of each batch of an epoch: sorted by length up to chance, cut, shuffled."""
    cuts = range(self.batch_size, len(self.lengths), self.batch_size)
    if self.seed is None:
      return np.split(np.lexsort((self.target_lengths, self.lengths)), cuts)
    draw = np.random.default_rng((self.seed, epoch))
    order = draw.permutation(len(self.lengths))
    both = (self.target_boundaries, self.target_lengths), (self.boundaries, self.lengths)
    buckets = [np.searchsorted(bounds, lengths[order]) for bounds, lengths in both]
    batches = np.split(order[np.lexsort(buckets)], cuts)
    return [batches[i] for i in draw.permutation(len(batches))]

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """The length of each sequence, once cut to the limit."""
    return np.minimum([len(s) for s in self.sequences], self.max_length)

  @functools.cached_property
  def target_lengths(self) -> np.ndarray:
    """The length of each target; 0 where there are none."""
    if self.targets is None:
      return np.zeros(len(self.sequences), int)
    return np.array([len(target) for target in self.targets])

  @functools.cached_property
  def boundaries(self) -> np.ndarray:
    """The values of T, rising."""
    return self._bucket_boundaries(self.lengths)

  @functools.cached_property
  def target_boundaries(self) -> np.ndarray:
    """The values of U."""
    return self._bucket_boundaries(self.target_lengths, len(self.boundaries))

  def _bucket_boundaries(self, lengths, num_shapes=1):
    """Few enough to be worth their compiling: each makes for so many shapes."""
    return bucket_boundaries(
      lengths, self.max_buckets, MIN_SAVED_BATCHES * num_shapes * self.batch_size * lengths.mean()
    )

  def stream(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, from that of the given step on, epoch after epoch."""
    while True:
      epoch, index = divmod(step, len(self))
      for rows in self._epoch_rows(epoch)[index:]:
        yield self._make_batch(rows, step)
        step += 1

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """The batches of one epoch, the first."""
    return (self._make_batch(rows, step) for step, rows in enumerate(self._epoch_rows(0)))

  def _make_batch(self, rows, step):
    """Cuts, pads and stacks rows; the step decides the windows."""
    draw = np.random.default_rng((self.seed or 0, step, 1))
    spans = [self._truncation_slice(len(self.sequences[i]), draw) for i in rows]
    front = self.padding == "front"
    longest, longest_target = self.lengths[rows].max(), self.target_lengths[rows].max()
    T = (
      self.max_length if front else int(self.boundaries[np.searchsorted(self.boundaries, longest)])
    )
    B = self.batch_size
    if self.host_rows is not None:
      B, own = len(self.host_rows), [n for n in self.host_rows if n < len(rows)]
      rows, spans = np.asarray(rows)[np.array(own, int)], [spans[n] for n in own]
    ends = self.lengths[rows]
    fill = B - len(rows)
    pad = lambda values: np.pad(values, (0, fill)).astype(np.int32)
    kind = np.float32 if np.issubdtype(self.sequences[0].dtype, np.floating) else np.int32

    def stack(arrays, dtype):
      out = np.full((T, B, *arrays[0].shape[1:]), PAD, dtype)
      for b, (i, span, n) in enumerate(zip(rows, spans, ends)):
        out[T - n if front else 0 : T if front else n, b] = arrays[i][span]
      return out

    batch = {
      "tokens": stack(self.sequences, kind),
      "lengths": np.full(B, T, np.int32) if front else pad(ends),
      "weights": pad(np.ones(len(rows))).astype(np.float32),
    }
    if self.labels is not None:
      batch["labels"] = pad(np.asarray(self.labels)[rows])
    if self.targets is not None:
      ends = self.target_lengths[rows]
      U = self.target_boundaries[np.searchsorted(self.target_boundaries, longest_target)]
      batch["targets"] = np.full((U, B), PAD, np.int32)
      for b, (i, n) in enumerate(zip(rows, ends)):
        batch["targets"][:n, b] = self.targets[i]
      batch["target_lengths"] = pad(ends)
    return batch | {name: stack(arrays, arrays[0].dtype) for name, arrays in self.extras.items()}

  def _truncation_slice(self, length, rng):
    """Which part of a sequence of so many tokens is kept."""
    spare = max(length - self.max_length, 0)
    start = {"first": 0, "last": spare, "window": int(rng.integers(spare + 1))}[self.truncation]
    return slice(start, start + self.max_length)


def bucket_boundaries(
  lengths: Sequence[int], max_buckets: int, min_saving: float = 0.0, max_candidates: int = 1000
) -> np.ndarray:
  """The at most k lengths, rising, to which all can be padded with the fewest steps.

      c₀(0) = 0,   cₖ(j) = minᵢ cₖ₋₁(i) + (nⱼ − nᵢ) lⱼ      nⱼ of the sequences are at most lⱼ long

  Args:
    lengths: of the sequences.
    k: how many at most.
    worth: steps; a further length that spares no more than these is left out.
    among: as many of the lengths there are, at most, evenly spread, are thought of.
  """
  lengths = np.sort(np.maximum(lengths, 1))
  l = np.unique(lengths)
  l = l[np.unique(np.linspace(0, len(l) - 1, max_candidates).astype(int))]
  n, l = np.append(0, np.searchsorted(lengths, l, "right")), np.append(0, l)
  steps = np.where(n[:, None] <= n, (n - n[:, None]) * l, np.inf)  # from i to j
  c, chosen = np.append(0, np.full(len(l) - 1, np.inf)), []
  for _ in range(max_buckets):
    through = c[:, None] + steps
    if chosen and c[-1] - through[:, -1].min() <= min_saving:
      break
    chosen.append(through.argmin(0))
    c = through.min(0)
  j, found = len(l) - 1, []
  for before in reversed(chosen):
    found.append(l[j])
    j = before[j]
  return np.array(found[::-1])

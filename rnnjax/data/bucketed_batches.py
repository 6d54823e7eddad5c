"""Length-bucketed, padded, time-major batches.

The rows of the n-th batch depend only on the seed and n, so a run that resumes at step n continues
with the same batches.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rnnjax.data.vocabulary import PAD

TRUNCATIONS = ("first", "last", "window")
PADDINGS = ("back", "front")
# Minimum saving of an additional batch shape: the number of padded steps that it removes per epoch,
# divided by the steps in a batch of mean length. A smaller saving does not justify the compilation.
MIN_SAVED_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class BucketedBatches:
  """Batches of sequences, padded to a few lengths.

  A batch is a dict:
    "tokens": [T, B] int32, or [T, B, D] float32 if the sequences are vectors.
    "lengths": [B] int32.
    "weights": [B] float32; 0 for the rows that fill up an incomplete batch.
    "labels": [B] int32, if there are labels.
    "targets": [U, B] and "target_lengths": [B], int32, if there are targets.
    NAME: [T, B, ...], for each name of `extras`.

  Sequences of similar lengths share a batch. T and U each have at most `max_buckets` values, which
  minimize padding. A value is omitted if it would save less time than its compilation takes.

  Attributes:
    sequences: arrays of token ids [T] or of vectors [T, D], of any lengths.
    labels: the label of each sequence, or None.
    batch_size: B.
    max_length: length to which longer sequences are truncated; None for no truncation.
    truncation: the part of a longer sequence that is kept: the "first" tokens, the "last" tokens,
      or a "window" at a random position that differs between training steps.
    padding: "back" (padding follows the tokens, and `lengths` are the true lengths) or "front"
      (padding precedes the tokens, and every length is `max_length`, so the model processes the
      padding as input; common in lecture notes).
    max_buckets: maximum number of values of T; also of U.
    seed: the random seed of the shuffling; None sorts the sequences by length, for evaluation.
    targets: arrays of ids [U] of a sequence-to-sequence task, one for each sequence, or None.
    extras: {name: arrays [T, ...], one for each sequence}, truncated and padded like the tokens.
    host_rows: indices of the rows of a batch that this host reads, in multi-host runs; None for
      all B.

  Raises:
    ValueError: `truncation` or `padding` is invalid, `padding` is "front" without a `max_length`,
      or there are no sequences.
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
      raise ValueError(f"truncation must be one of {TRUNCATIONS}; got {self.truncation!r}")
    if self.padding not in PADDINGS:
      raise ValueError(f"padding must be one of {PADDINGS}; got {self.padding!r}")
    if self.padding == "front" and self.max_length == sys.maxsize:
      raise ValueError("padding='front' pads every row to max_length, which must be given")
    if not len(self.sequences):
      raise ValueError("there are no sequences to make batches of")

  def __len__(self) -> int:
    """Return the number of batches in an epoch."""
    return -(-len(self.sequences) // self.batch_size)

  def select_rows(self, rows: Sequence[int]) -> "BucketedBatches":
    """Return a copy whose batches contain only the given rows of each batch (`host_rows`)."""
    return dataclasses.replace(self, host_rows=tuple(rows))

  def _epoch_rows(self, epoch: int) -> list[np.ndarray]:
    """Return the sequence indices of each batch of an epoch.

    Sequences are shuffled, sorted by bucket and cut into batches; the batches are then shuffled.
    Without a seed, sequences are sorted by length and nothing is shuffled.
    """
    cuts = range(self.batch_size, len(self.lengths), self.batch_size)
    if self.seed is None:
      return np.split(np.lexsort((self.target_lengths, self.lengths)), cuts)
    rng = np.random.default_rng((self.seed, epoch))
    order = rng.permutation(len(self.lengths))
    sort_keys = (
      np.searchsorted(self.target_boundaries, self.target_lengths[order]),
      np.searchsorted(self.boundaries, self.lengths[order]),
    )
    batches = np.split(order[np.lexsort(sort_keys)], cuts)
    return [batches[i] for i in rng.permutation(len(batches))]

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """The length of each sequence after truncation."""
    return np.minimum([len(s) for s in self.sequences], self.max_length)

  @functools.cached_property
  def target_lengths(self) -> np.ndarray:
    """The length of each target; 0 if there are no targets."""
    if self.targets is None:
      return np.zeros(len(self.sequences), int)
    return np.array([len(target) for target in self.targets])

  @functools.cached_property
  def boundaries(self) -> np.ndarray:
    """The padded lengths T of the buckets, in ascending order."""
    return self._bucket_boundaries(self.lengths)

  @functools.cached_property
  def target_boundaries(self) -> np.ndarray:
    """The padded target lengths U of the buckets, in ascending order."""
    return self._bucket_boundaries(self.target_lengths, len(self.boundaries))

  def _bucket_boundaries(self, lengths: np.ndarray, num_shapes: int = 1) -> np.ndarray:
    """Return the bucket boundaries of `lengths`.

    Each boundary adds `num_shapes` batch shapes, and each batch shape is compiled separately.
    """
    min_saving = MIN_SAVED_BATCHES * num_shapes * self.batch_size * lengths.mean()
    return bucket_boundaries(lengths, self.max_buckets, min_saving)

  def stream(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield training batches endlessly, starting with the batch of training step `step`."""
    while True:
      epoch, index = divmod(step, len(self))
      for rows in self._epoch_rows(epoch)[index:]:
        yield self._make_batch(rows, step)
        step += 1

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of epoch 0. If `seed` is None, all epochs are the same."""
    return (self._make_batch(rows, step) for step, rows in enumerate(self._epoch_rows(0)))

  def _make_batch(self, rows: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """Truncate, pad and stack the given sequences into a batch; `step` seeds the random windows."""
    rng = np.random.default_rng((self.seed or 0, step, 1))
    spans = [self._truncation_slice(len(self.sequences[i]), rng) for i in rows]
    front = self.padding == "front"
    # T and U come from the whole batch, so that all hosts agree on the shapes.
    longest, longest_target = self.lengths[rows].max(), self.target_lengths[rows].max()
    if front:
      T = self.max_length
    else:
      T = int(self.boundaries[np.searchsorted(self.boundaries, longest)])
    B = self.batch_size
    if self.host_rows is not None:
      B = len(self.host_rows)
      local_rows = [n for n in self.host_rows if n < len(rows)]
      rows = np.asarray(rows)[np.array(local_rows, int)]
      spans = [spans[n] for n in local_rows]
    lengths = self.lengths[rows]
    num_missing_rows = B - len(rows)

    def fill_rows(values):
      return np.pad(values, (0, num_missing_rows)).astype(np.int32)

    def stack(arrays, dtype):
      stacked = np.full((T, B, *arrays[0].shape[1:]), PAD, dtype)
      for b, (i, span, n) in enumerate(zip(rows, spans, lengths)):
        stacked[T - n if front else 0 : T if front else n, b] = arrays[i][span]
      return stacked

    is_float = np.issubdtype(self.sequences[0].dtype, np.floating)
    batch = {
      "tokens": stack(self.sequences, np.float32 if is_float else np.int32),
      "lengths": np.full(B, T, np.int32) if front else fill_rows(lengths),
      "weights": fill_rows(np.ones(len(rows))).astype(np.float32),
    }
    if self.labels is not None:
      batch["labels"] = fill_rows(np.asarray(self.labels)[rows])
    if self.targets is not None:
      target_lengths = self.target_lengths[rows]
      U = self.target_boundaries[np.searchsorted(self.target_boundaries, longest_target)]
      batch["targets"] = np.full((U, B), PAD, np.int32)
      for b, (i, n) in enumerate(zip(rows, target_lengths)):
        batch["targets"][:n, b] = self.targets[i]
      batch["target_lengths"] = fill_rows(target_lengths)
    return batch | {name: stack(arrays, arrays[0].dtype) for name, arrays in self.extras.items()}

  def _truncation_slice(self, length: int, rng: np.random.Generator) -> slice:
    """Return the slice of a sequence of the given length that remains after truncation."""
    excess = max(length - self.max_length, 0)
    start = {"first": 0, "last": excess, "window": int(rng.integers(excess + 1))}[self.truncation]
    return slice(start, start + self.max_length)


def bucket_boundaries(
  lengths: Sequence[int], max_buckets: int, min_saving: float = 0.0, max_candidates: int = 1000
) -> np.ndarray:
  """Return at most `max_buckets` bucket lengths that minimize the number of padded steps.

  Dynamic programming over the distinct lengths l₁ < l₂ < ...:

      c₀(0) = 0,   cₖ(j) = minᵢ cₖ₋₁(i) + (nⱼ − nᵢ) lⱼ

  where nⱼ sequences are at most lⱼ long, and cₖ(j) is the minimum total number of steps, with
  padding, of these nⱼ sequences in k buckets.

  Args:
    lengths: lengths of the sequences.
    max_buckets: maximum number of buckets.
    min_saving: number of padded steps. A bucket is added only if it saves more steps than this.
    max_candidates: maximum number of distinct lengths that are considered, evenly spaced.

  Returns:
    The bucket lengths, ascending; the last one is the maximum of `lengths`.
  """
  lengths = np.sort(np.maximum(lengths, 1))
  l = np.unique(lengths)
  l = l[np.unique(np.linspace(0, len(l) - 1, max_candidates).astype(int))]
  n, l = np.append(0, np.searchsorted(lengths, l, "right")), np.append(0, l)
  bucket_costs = np.where(n[:, None] <= n, (n - n[:, None]) * l, np.inf)  # from i to j
  c, previous = np.append(0, np.full(len(l) - 1, np.inf)), []
  for _ in range(max_buckets):
    costs = c[:, None] + bucket_costs
    if previous and c[-1] - costs[:, -1].min() <= min_saving:
      break
    previous.append(costs.argmin(0))
    c = costs.min(0)
  # Trace the choices back from the greatest length.
  j, boundaries = len(l) - 1, []
  for choices in reversed(previous):
    boundaries.append(l[j])
    j = choices[j]
  return np.array(boundaries[::-1])

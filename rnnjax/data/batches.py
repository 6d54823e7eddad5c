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

KEEP = ("first", "last", "window")
PADDING = ("back", "front")


@dataclasses.dataclass(frozen=True)
class Batches:
  """Batches {"tokens": [T, B], "lengths": [B], "weights": [B]}, time-major, with "labels": [B] and
  what goes along with the tokens, [T, B, ...] under its own names, where there are any.

  Rows of like length share a batch: T is one of at most `buckets` lengths. A batch that runs
  short is filled with rows of weight 0.

  Attributes:
    sequences: arrays of token ids, any lengths.
    labels: one for each, or None.
    batch: B.
    limit: longer sequences are cut to so many tokens; none are where it is left out.
    keep: what survives the cut: the "first" or "last" tokens, or a "window" drawn each time.
    padding: "back" (lengths tell where a row ends) or "front" (every row is filled with zeros in
      front to `limit` and counts as full, the way many lecture notes do it).
    buckets: how many values of T.
    seed: of the shuffle; None keeps the order of lengths, for evaluation.
    beside: {name: arrays [T, ...], one for each sequence}, which go along with the tokens.
  """

  sequences: Sequence[np.ndarray]
  labels: Sequence[int] | None
  batch: int
  limit: int = sys.maxsize
  keep: str = "first"
  padding: str = "back"
  buckets: int = 10
  seed: int | None = None
  beside: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.keep not in KEEP:
      raise ValueError(f"keep must be one of {KEEP}; got {self.keep!r}")
    if self.padding not in PADDING:
      raise ValueError(f"padding must be one of {PADDING}; got {self.padding!r}")
    if self.padding == "front" and self.limit == sys.maxsize:
      raise ValueError("padding='front' fills every row to the limit, which it needs")
    if not len(self.sequences):
      raise ValueError("there are no sequences to make batches of")

  def __len__(self) -> int:
    """Batches in an epoch."""
    return -(-len(self.sequences) // self.batch)

  def _plan(self, epoch: int) -> list[np.ndarray]:
    """The rows of each batch of an epoch: sorted by length up to chance, cut, shuffled."""
    cuts = range(self.batch, len(self.lengths), self.batch)
    if self.seed is None:
      return np.split(np.argsort(self.lengths, kind="stable"), cuts)
    draw = np.random.default_rng((self.seed, epoch))
    order = draw.permutation(len(self.lengths))
    bucket = np.searchsorted(self.bounds, self.lengths)
    batches = np.split(order[np.argsort(bucket[order], kind="stable")], cuts)
    return [batches[i] for i in draw.permutation(len(batches))]

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """The length of each sequence, once cut to the limit."""
    return np.minimum([len(s) for s in self.sequences], self.limit)

  @functools.cached_property
  def bounds(self) -> np.ndarray:
    """The values of T, rising: quantiles of the lengths, rounded up to multiples of 8."""
    tops = np.quantile(self.lengths, np.linspace(0, 1, self.buckets + 1)[1:])
    return np.unique(np.minimum(np.ceil(np.maximum(tops, 1) / 8) * 8, self.limit)).astype(int)

  def stream(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, from that of the given step on, epoch after epoch."""
    while True:
      epoch, index = divmod(step, len(self))
      for rows in self._plan(epoch)[index:]:
        yield self._gather(rows, step)
        step += 1

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """The batches of one epoch, the first."""
    return (self._gather(rows, step) for step, rows in enumerate(self._plan(0)))

  def _gather(self, rows, step):
    """Cuts, pads and stacks rows; the step decides the windows."""
    draw = np.random.default_rng((self.seed or 0, step, 1))
    spans = [self._span(len(self.sequences[i]), draw) for i in rows]
    ends = self.lengths[rows]
    front = self.padding == "front"
    T = self.limit if front else int(self.bounds[np.searchsorted(self.bounds, ends.max())])
    fill = self.batch - len(rows)
    pad = lambda values: np.pad(values, (0, fill))

    def stack(arrays, like):
      out = np.full((T, self.batch, *like.shape[1:]), PAD, like.dtype)
      for b, (i, span, n) in enumerate(zip(rows, spans, ends)):
        out[T - n if front else 0 : T if front else n, b] = arrays[i][span]
      return out

    batch = {
      "tokens": stack(self.sequences, np.zeros(0, np.int32)),
      "lengths": np.full(self.batch, T, np.int32) if front else pad(ends).astype(np.int32),
      "weights": pad(np.ones(len(rows), np.float32)),
    }
    if self.labels is not None:
      batch["labels"] = pad(np.asarray(self.labels, np.int32)[rows])
    return batch | {name: stack(arrays, arrays[0]) for name, arrays in self.beside.items()}

  def _span(self, length, draw):
    """Which part of a sequence of so many tokens is kept."""
    spare = max(length - self.limit, 0)
    start = {"first": 0, "last": spare, "window": int(draw.integers(spare + 1))}[self.keep]
    return slice(start, start + self.limit)

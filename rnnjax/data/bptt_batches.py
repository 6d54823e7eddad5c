"""A long text as batches: parallel columns through which a window moves.

As with labelled sequences, the n-th batch is a function of the seed and n alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class BpttBatches:
  """Batches {"tokens": [T + 1, B], "weights": [T, B]} of a text; weights are of neighbours.

  For training (with a seed) each epoch cuts the text, taken as a ring, at a place drawn anew into B
  columns, and a window of T moves down all of them: batch n + 1 goes on where batch n ended.

  For evaluation (without) every token but the first is predicted exactly once: before its own part
  each column reads the `warm` tokens that precede it, which count nothing, so that cutting the
  text costs no token its context. Where nothing precedes, the first token stands for it.

  Attributes:
    tokens: [N], the text as ids.
    batch: B.
    steps: T.
    seed: of the places; None for evaluation.
    warm: tokens read before a column's own, in evaluation.
    rows: which columns are read, the share of one host of many; None for all B.

  Raises:
    ValueError: the text has fewer than 2 tokens or than B.
  """

  tokens: np.ndarray
  batch_size: int
  bptt_length: int
  seed: int | None = None
  context_len: int = 0
  host_rows: tuple[int, ...] | None = None

  def __post_init__(self):
    if len(self.tokens) < max(2, self.batch_size):
      raise ValueError(
        f"a text of {len(self.tokens)} tokens cannot fill a batch of {self.batch_size} columns; "
        "it needs at least one token a column, and two in all"
      )

  def select_rows(self, rows: Sequence[int]) -> "BpttBatches":
    """The same batches, of which only so many columns are read."""
    return dataclasses.replace(self, rows=tuple(rows))

  @property
  def column_length(self) -> int:
    """Pairs of neighbours in each column."""
    N = len(self.tokens)
    return N // self.batch_size if self.seed is not None else -(-(N - 1) // self.batch_size)

  @property
  def _column_starts(self):
    """Where the columns begin that are read."""
    return (
      self.column_length
      * np.arange(self.batch_size)[slice(None) if self.host_rows is None else [*self.host_rows]]
    )

  def __len__(self) -> int:
    """Batches in an epoch."""
    if self.seed is not None:
      return max(self.column_length // self.bptt_length, 1)
    return -(-(self.column_length + self.context_len) // self.bptt_length)

  def stream(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end, from that of the given step on, epoch after epoch."""
    window = np.arange(self.bptt_length + 1)[:, None]
    weights = np.ones((self.bptt_length, len(self._column_starts)), np.float32)
    while True:
      epoch, index = divmod(step, len(self))
      cut = np.random.default_rng((self.seed or 0, epoch)).integers(len(self.tokens))
      at = (cut + self._column_starts + index * self.bptt_length + window) % len(self.tokens)
      yield {"tokens": self.tokens[at], "weights": weights}
      step += 1

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """The batches of one evaluation."""
    for index in range(len(self)):
      own = index * self.bptt_length - self.context_len + np.arange(self.bptt_length + 1)[:, None]
      at = self._column_starts + own
      counts = (own >= 0) & (own < self.column_length) & (at < len(self.tokens) - 1)
      yield {
        "tokens": self.tokens[np.clip(at, 0, len(self.tokens) - 1)],
        "weights": counts[:-1].astype(np.float32),
      }

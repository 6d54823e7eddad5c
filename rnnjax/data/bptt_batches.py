"""Batches of one long text for truncated backpropagation through time.

The n-th batch is a function of the seed and n alone, so a run that resumes at step n continues with
the same batches.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class BpttBatches:
  """Batches {"tokens": [T + 1, B], "weights": [T, B]} of a text that is split into B columns.

  A window of T + 1 tokens moves along all columns: batch n + 1 continues where batch n ended. Token
  t is the input of step t, token t + 1 is its target, and the weight of step t weights its loss.

  For training (`seed` is an integer), the text is treated as circular: each epoch cuts it at a
  random position and splits it into columns. All weights are 1.

  For evaluation (`seed` is None), every token except the first is a target with weight 1 exactly
  once. Each column also contains the `context_len` tokens before its start, with weight 0, so that
  its first targets have context. Before the start of the text, the first token is repeated.

  Attributes:
    tokens: the ids of the text [N].
    batch_size: B, the number of columns.
    bptt_length: T, the number of targets in a window.
    seed: the random seed of the cut positions; None for evaluation.
    context_len: number of context tokens before each column, in evaluation.
    host_rows: indices of the columns that this host reads, in multi-host runs; None for all B.

  Raises:
    ValueError: the text has fewer than 2 tokens or fewer than B tokens.
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
    """Return the same batches with only the given columns."""
    return dataclasses.replace(self, host_rows=tuple(rows))

  @property
  def column_length(self) -> int:
    """The number of targets in each column."""
    N = len(self.tokens)
    return N // self.batch_size if self.seed is not None else -(-(N - 1) // self.batch_size)

  @property
  def _column_starts(self) -> np.ndarray:
    """The offset of each selected column from the start of the first column, in tokens."""
    selected = slice(None) if self.host_rows is None else [*self.host_rows]
    return self.column_length * np.arange(self.batch_size)[selected]

  def __len__(self) -> int:
    """Return the number of batches in an epoch."""
    if self.seed is not None:
      return max(self.column_length // self.bptt_length, 1)
    return -(-(self.column_length + self.context_len) // self.bptt_length)

  def stream(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield training batches endlessly, starting with the batch of training step `step`."""
    window = np.arange(self.bptt_length + 1)[:, None]
    weights = np.ones((self.bptt_length, len(self._column_starts)), np.float32)
    while True:
      epoch, index = divmod(step, len(self))
      cut = np.random.default_rng((self.seed or 0, epoch)).integers(len(self.tokens))
      positions = cut + self._column_starts + index * self.bptt_length + window
      yield {"tokens": self.tokens[positions % len(self.tokens)], "weights": weights}
      step += 1

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of one pass over the text, for evaluation."""
    last = len(self.tokens) - 1
    for index in range(len(self)):
      # Offsets within a column are negative while the context is read.
      offsets = index * self.bptt_length - self.context_len + np.arange(self.bptt_length + 1)
      offsets = offsets[:, None]
      positions = self._column_starts + offsets
      is_target = (offsets >= 0) & (offsets < self.column_length) & (positions < last)
      yield {
        "tokens": self.tokens[np.clip(positions, 0, last)],
        "weights": is_target[:-1].astype(np.float32),
      }

"""Randomly generated batches of the adding and copy problems.

The adding problem is from Hochreiter & Schmidhuber 1997. One number in each half of the sequence is
marked, as in Bai, Kolter & Koltun 2018. The copy problem is from Arjovsky, Shah & Bengio 2016.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NUM_SYMBOLS = 8  # number of different symbols of the copy problem
COPY_LENGTH = 10  # number of symbols to copy

Generator = np.random.Generator
Batch = dict[str, np.ndarray]


def make_adding_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Generate a batch of the adding problem.

  A sequence consists of numbers in [0, 1). One number is marked in each half of the sequence. The
  label is the sum of the two marked numbers. A model that always predicts 1 has a mean squared
  error of 1/6.

  Args:
    rng: the random generator.
    batch_size: the number of sequences B.
    T: the length of the sequences.

  Returns:
    A dict of float32 arrays: "tokens" [T, B, 2] contains the number and the mark (0 or 1) at each
    step, "labels" [B] the sums.
  """
  half = T // 2
  rows = np.arange(batch_size)
  xs = np.stack([rng.random((T, batch_size)), np.zeros((T, batch_size))], -1)
  first, second = rng.integers(half, size=batch_size), rng.integers(half, T, batch_size)
  xs[first, rows, 1] = xs[second, rows, 1] = 1
  labels = xs[first, rows, 0] + xs[second, rows, 0]
  return {"tokens": xs.astype(np.float32), "labels": labels.astype(np.float32)}


def make_copy_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Generate a batch of the copy problem.

  A sequence consists of ten symbols, T − 1 blanks and eleven marks. The ten symbols are the labels
  of the last ten steps. A model that predicts the uniform distribution has a cross entropy of ln 8
  nats per symbol.

  Args:
    rng: the random generator.
    batch_size: the number of sequences B.
    T: the number of steps from the last symbol to the first mark.

  Returns:
    A dict of "tokens" [T + 20, B, 10], float32, one-hot vectors of the classes blank, symbols 1 to
    8 and mark; and "labels" [10, B], int32, the symbols.
  """
  symbols = rng.integers(1, NUM_SYMBOLS + 1, (COPY_LENGTH, batch_size))
  blanks = np.zeros((T - 1, batch_size), int)
  marks = np.full((COPY_LENGTH + 1, batch_size), NUM_SYMBOLS + 1)
  ids = np.concatenate([symbols, blanks, marks])
  one_hot = np.eye(NUM_SYMBOLS + 2, dtype=np.float32)
  return {"tokens": one_hot[ids], "labels": symbols.astype(np.int32)}


PROBLEMS: dict[str, Callable[[Generator, int, int], Batch]] = {
  "adding": make_adding_batch,
  "copy": make_copy_batch,
}
# {problem: loss of the best constant prediction}. A model without memory has at least this loss.
BASELINE_LOSSES = {"adding": 1 / 6, "copy": math.log(NUM_SYMBOLS)}


@dataclasses.dataclass(frozen=True)
class GeneratedBatches:
  """An endless stream of generated batches.

  Batch n depends only on the fields below and on n.

  Attributes:
    problem: the problem, one of PROBLEMS.
    length: the parameter T of the problem.
    batch_size: the number of sequences B in a batch, over all hosts.
    seed: the random seed; different splits need different seeds.
    num_batches: the number of batches in an epoch.
    host_rows: the rows of each batch that this host uses in multi-host runs; None uses all rows.
  """

  problem: str
  length: int
  batch_size: int
  seed: int
  num_batches: int
  host_rows: tuple[int, ...] | None = None

  def select_rows(self, rows: Sequence[int]) -> "GeneratedBatches":
    """Return a copy that yields only the given rows of each batch."""
    return dataclasses.replace(self, host_rows=tuple(rows))

  def __len__(self) -> int:
    """Return the number of batches in an epoch."""
    return self.num_batches

  def stream(self, step: int = 0) -> Iterator[Batch]:
    """Yield batches without end, starting at batch number `step`.

    Each batch also contains "lengths" [B] and "weights" [B].
    """
    for n in itertools.count(step):
      rng = np.random.default_rng((self.seed, n))
      batch = PROBLEMS[self.problem](rng, self.batch_size, self.length)
      batch["lengths"] = np.full(self.batch_size, len(batch["tokens"]), np.int32)
      batch["weights"] = np.ones(self.batch_size, np.float32)
      rows = slice(None) if self.host_rows is None else [*self.host_rows]
      # The batch axis is axis 0 of vectors [B] and axis 1 of arrays [T, B, ...].
      yield {name: a[rows] if a.ndim == 1 else a[:, rows] for name, a in batch.items()}

  def __iter__(self) -> Iterator[Batch]:
    """Yield the batches of one epoch."""
    return itertools.islice(self.stream(), self.num_batches)

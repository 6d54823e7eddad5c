"""The adding and the copy problem, generated anew for every batch.

The adding problem is that of Hochreiter & Schmidhuber 1997, with one mark in each half of the
sequence as in Bai, Kolter & Koltun 2018. The copy problem is that of Arjovsky, Shah & Bengio 2016.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NUM_SYMBOLS = 8  # different symbols of the copy problem
COPY_LENGTH = 10  # symbols to copy

Generator = np.random.Generator
Batch = dict[str, np.ndarray]


def make_adding_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Generate sequences of numbers in [0, 1); the label is the sum of the two marked numbers.

  One number is marked in each half. The constant guess 1 has a mean squared error of 1/6.

  Args:
    rng: the random generator.
    batch_size: B.
    T: length of the sequences.

  Returns:
    {"tokens": [T, B, 2] (number, mark), "labels": [B]}, float32.
  """
  half = T // 2
  rows = np.arange(batch_size)
  xs = np.stack([rng.random((T, batch_size)), np.zeros((T, batch_size))], -1)
  first, second = rng.integers(half, size=batch_size), rng.integers(half, T, batch_size)
  xs[first, rows, 1] = xs[second, rows, 1] = 1
  labels = xs[first, rows, 0] + xs[second, rows, 0]
  return {"tokens": xs.astype(np.float32), "labels": labels.astype(np.float32)}


def make_copy_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Generate ten symbols, T − 1 blanks, and eleven marks; the last ten outputs repeat the symbols.

  A uniform guess has a cross entropy of ln 8 nats per symbol.

  Args:
    rng: the random generator.
    batch_size: B.
    T: steps from the last symbol to the first mark.

  Returns:
    {"tokens": [T + 20, B, 10], one-hot (blank, symbols 1 to 8, mark), float32,
     "labels": [10, B], the symbols, int32}.
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
# The loss of the best constant guess, which a model without memory has.
BASELINE_LOSSES = {"adding": 1 / 6, "copy": math.log(NUM_SYMBOLS)}


@dataclasses.dataclass(frozen=True)
class GeneratedBatches:
  """An endless stream of generated batches; the n-th is a function of the seed and n.

  Attributes:
    problem: one of PROBLEMS.
    length: T of the problem.
    batch_size: B, over all hosts.
    seed: the random seed; each split has a different one.
    num_batches: batches of an epoch.
    host_rows: rows of each batch that this host reads in multi-host runs; None for all.
  """

  problem: str
  length: int
  batch_size: int
  seed: int
  num_batches: int
  host_rows: tuple[int, ...] | None = None

  def select_rows(self, rows: Sequence[int]) -> "GeneratedBatches":
    """Return the same batches, restricted to some of their rows."""
    return dataclasses.replace(self, host_rows=tuple(rows))

  def __len__(self) -> int:
    """Return the number of batches of an epoch."""
    return self.num_batches

  def stream(self, step: int = 0) -> Iterator[Batch]:
    """Yield batches from a step on, with the keys "lengths" and "weights" [B] added."""
    for n in itertools.count(step):
      rng = np.random.default_rng((self.seed, n))
      batch = PROBLEMS[self.problem](rng, self.batch_size, self.length)
      batch["lengths"] = np.full(self.batch_size, len(batch["tokens"]), np.int32)
      batch["weights"] = np.ones(self.batch_size, np.float32)
      rows = slice(None) if self.host_rows is None else [*self.host_rows]
      # The batch axis is the first one of vectors [B], the second one of arrays [T, B, ...].
      yield {name: a[rows] if a.ndim == 1 else a[:, rows] for name, a in batch.items()}

  def __iter__(self) -> Iterator[Batch]:
    """Yield the batches of one epoch."""
    return itertools.islice(self.stream(), self.num_batches)

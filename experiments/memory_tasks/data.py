"""Two problems that only memory solves, drawn anew for every batch.

The adding problem is Hochreiter & Schmidhuber 1997's, with one mark in each half as Bai, Kolter &
Koltun 2018 place them; the copy problem is that of Arjovsky, Shah & Bengio 2016.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

NUM_SYMBOLS, COPY_LENGTH = (
  8,
  10,
)  # of the copy problem: how many there are, and how many are to be kept

Generator = np.random.Generator
Batch = dict[str, np.ndarray]


def make_adding_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Numbers in [0, 1), two of which are marked, one in each half: what is their sum?

  Who remembers nothing says 1, and has a mean squared error of 1/6.

  Returns:
    {"tokens": [T, B, 2] (numbers, marks), "labels": [B]}, float32.
  """
  half, rows = T // 2, np.arange(batch_size)
  xs = np.stack([rng.random((T, batch_size)), np.zeros((T, batch_size))], -1)
  first, second = rng.integers(half, size=batch_size), rng.integers(half, T, batch_size)
  xs[first, rows, 1] = xs[second, rows, 1] = 1
  labels = xs[first, rows, 0] + xs[second, rows, 0]
  return {"tokens": xs.astype(np.float32), "labels": labels.astype(np.float32)}


def make_copy_batch(rng: Generator, batch_size: int, T: int) -> Batch:
  """Ten symbols, T blank steps, and a mark from which on the ten are to be said again.

  Who remembers nothing has a cross entropy of ln 8 nats for each of the ten.

  Returns:
    {"tokens": [T + 20, B, 10], one-hot (blank, symbols 1 to 8, mark), float32,
     "labels": [10, B], symbols, int32}.
  """
  said = rng.integers(1, NUM_SYMBOLS + 1, (COPY_LENGTH, batch_size))
  blank = np.zeros((T - 1, batch_size), int)
  mark = np.full((COPY_LENGTH + 1, batch_size), NUM_SYMBOLS + 1)
  ids = np.concatenate([said, blank, mark])
  return {"tokens": np.eye(NUM_SYMBOLS + 2, dtype=np.float32)[ids], "labels": said.astype(np.int32)}


PROBLEMS: dict[str, Callable[[Generator, int, int], Batch]] = {
  "adding": make_adding_batch,
  "copy": make_copy_batch,
}
BASELINE_LOSSES = {"adding": 1 / 6, "copy": math.log(NUM_SYMBOLS)}  # the loss of who keeps nothing


@dataclasses.dataclass(frozen=True)
class GeneratedBatches:
  """Batches without end, the n-th a function of the seed and n alone.

  Attributes:
    problem: one of PROBLEMS.
    T: its length.
    batch: B.
    seed: what is drawn; another part has another seed.
    number: batches that count as an epoch.
    rows: which rows are kept, the share of one host of many; None for all B.
  """

  problem: str
  length: int
  batch_size: int
  seed: int
  num_batches: int
  host_rows: tuple[int, ...] | None = None

  def select_rows(self, rows: Sequence[int]) -> "GeneratedBatches":
    """The same batches, of which only so many rows are kept."""
    return dataclasses.replace(self, rows=tuple(rows))

  def __len__(self) -> int:
    return self.num_batches

  def stream(self, step: int = 0) -> Iterator[Batch]:
    """Batches from the given step on, with "lengths" and "weights" as all batches have."""
    for n in itertools.count(step):
      rows = PROBLEMS[self.problem](
        np.random.default_rng((self.seed, n)), self.batch_size, self.length
      )
      full = np.full(self.batch_size, len(rows["tokens"]), np.int32)
      rows |= {"lengths": full, "weights": np.ones(self.batch_size, np.float32)}
      own = slice(None) if self.host_rows is None else [*self.host_rows]
      yield {name: a[own] if a.ndim == 1 else a[:, own] for name, a in rows.items()}

  def __iter__(self) -> Iterator[Batch]:
    return itertools.islice(self.stream(), self.num_batches)

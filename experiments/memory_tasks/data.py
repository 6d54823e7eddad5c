"""Two problems that only memory solves, drawn anew for every batch.

The adding problem is Hochreiter & Schmidhuber 1997's, with one mark in each half as Bai, Kolter &
Koltun 2018 place them; the copy problem is that of Arjovsky, Shah & Bengio 2016.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

SYMBOLS, SAID = 8, 10  # of the copy problem: how many there are, and how many are to be kept

Draw = np.random.Generator
Rows = dict[str, np.ndarray]


def adding(draw: Draw, batch: int, T: int) -> Rows:
  """Numbers in [0, 1), two of which are marked, one in each half: what is their sum?

  Who remembers nothing says 1, and has a mean squared error of 1/6.

  Returns:
    {"tokens": [T, B, 2] (numbers, marks), "labels": [B]}, float32.
  """
  half, rows = T // 2, np.arange(batch)
  xs = np.stack([draw.random((T, batch)), np.zeros((T, batch))], -1)
  first, second = draw.integers(half, size=batch), draw.integers(half, T, batch)
  xs[first, rows, 1] = xs[second, rows, 1] = 1
  labels = xs[first, rows, 0] + xs[second, rows, 0]
  return {"tokens": xs.astype(np.float32), "labels": labels.astype(np.float32)}


def copy(draw: Draw, batch: int, T: int) -> Rows:
  """Ten symbols, T blank steps, and a mark from which on the ten are to be said again.

  Who remembers nothing has a cross entropy of ln 8 nats for each of the ten.

  Returns:
    {"tokens": [T + 20, B, 10], one-hot (blank, symbols 1 to 8, mark), float32,
     "labels": [10, B], symbols, int32}.
  """
  said = draw.integers(1, SYMBOLS + 1, (SAID, batch))
  blank = np.zeros((T - 1, batch), int)
  mark = np.full((SAID + 1, batch), SYMBOLS + 1)
  ids = np.concatenate([said, blank, mark])
  return {"tokens": np.eye(SYMBOLS + 2, dtype=np.float32)[ids], "labels": said.astype(np.int32)}


PROBLEMS: dict[str, Callable[[Draw, int, int], Rows]] = {"adding": adding, "copy": copy}
GUESS = {"adding": 1 / 6, "copy": math.log(SYMBOLS)}  # the loss of who keeps nothing


@dataclasses.dataclass(frozen=True)
class Drawn:
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
  T: int
  batch: int
  seed: int
  number: int
  rows: tuple[int, ...] | None = None

  def share(self, rows: Sequence[int]) -> "Drawn":
    """The same batches, of which only so many rows are kept."""
    return dataclasses.replace(self, rows=tuple(rows))

  def __len__(self) -> int:
    return self.number

  def stream(self, step: int = 0) -> Iterator[Rows]:
    """Batches from the given step on, with "lengths" and "weights" as all batches have."""
    for n in itertools.count(step):
      rows = PROBLEMS[self.problem](np.random.default_rng((self.seed, n)), self.batch, self.T)
      full = np.full(self.batch, len(rows["tokens"]), np.int32)
      rows |= {"lengths": full, "weights": np.ones(self.batch, np.float32)}
      own = slice(None) if self.rows is None else [*self.rows]
      yield {name: a[own] if a.ndim == 1 else a[:, own] for name, a in rows.items()}

  def __iter__(self) -> Iterator[Rows]:
    return itertools.islice(self.stream(), self.number)

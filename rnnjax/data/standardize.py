"""Features in deviations from their mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Standardizer(NamedTuple):
  """(x − mean) / deviation, feature by feature, as known of the training part alone."""

  mean: np.ndarray
  std: np.ndarray

  @classmethod
  def fit(cls, sequences: Sequence[np.ndarray]) -> "Standardizer":
    """That of sequences [T, D]; what never changes gets the deviation 1."""
    rows = np.concatenate(sequences)
    # Not where the deviation is 0: that of a constant is not, when its mean is rounded.
    moves = (rows != rows[:1]).any(0)
    wide = rows.astype(np.float64)
    return cls(*(a.astype(rows.dtype) for a in (wide.mean(0), np.where(moves, wide.std(0), 1))))

  def __call__(self, xs: np.ndarray) -> np.ndarray:
    """[..., D] -> [..., D]."""
    return (xs - self.mean) / self.std

  def inverse(self, xs: np.ndarray) -> np.ndarray:
    """What is scaled to xs [..., D]."""
    return xs * self.std + self.mean

  def to_json(self) -> dict[str, list[float]]:
    """As what JSON can hold."""
    return {"mean": self.mean.tolist(), "deviation": self.std.tolist()}

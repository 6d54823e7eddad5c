"""Features in deviations from their mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Scale(NamedTuple):
  """(x − mean) / deviation, feature by feature, as known of the training part alone."""

  mean: np.ndarray
  deviation: np.ndarray

  @classmethod
  def of(cls, sequences: Sequence[np.ndarray]) -> "Scale":
    """That of sequences [T, D]; what never changes gets the deviation 1."""
    rows = np.concatenate(sequences)
    deviation = rows.std(0)
    return cls(rows.mean(0), np.where(deviation > 0, deviation, 1).astype(rows.dtype))

  def __call__(self, xs: np.ndarray) -> np.ndarray:
    """[..., D] -> [..., D]."""
    return (xs - self.mean) / self.deviation

  def inverse(self, xs: np.ndarray) -> np.ndarray:
    """What is scaled to xs [..., D]."""
    return xs * self.deviation + self.mean

  def json(self) -> dict[str, list[float]]:
    """As what JSON can hold."""
    return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

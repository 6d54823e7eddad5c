"""Standardization of features to zero mean and unit variance."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Standardizer(NamedTuple):
  """Feature-wise standardization (x − mean) / std, with statistics of the training set.

  Attributes:
    mean: mean of each feature [D].
    std: standard deviation of each feature [D]; 1 for a constant feature.
  """

  mean: np.ndarray
  std: np.ndarray

  @classmethod
  def fit(cls, sequences: Sequence[np.ndarray]) -> "Standardizer":
    """Return a standardizer fitted to sequences [T, D]; statistics are computed in float64."""
    rows = np.concatenate(sequences)
    # A constant feature can have std > 0, because its mean is rounded: std == 0 would miss it.
    varies = (rows != rows[:1]).any(0)
    rows_float64 = rows.astype(np.float64)
    mean, std = rows_float64.mean(0), np.where(varies, rows_float64.std(0), 1)
    return cls(mean.astype(rows.dtype), std.astype(rows.dtype))

  def __call__(self, xs: np.ndarray) -> np.ndarray:
    """Standardize xs [..., D]."""
    return (xs - self.mean) / self.std

  def inverse(self, xs: np.ndarray) -> np.ndarray:
    """Undo the standardization of xs [..., D]."""
    return xs * self.std + self.mean

  def to_json(self) -> dict[str, list[float]]:
    """Return the statistics as a JSON value."""
    return {"mean": self.mean.tolist(), "deviation": self.std.tolist()}

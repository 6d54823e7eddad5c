"""Standardization, compared with float64 statistics."""

import numpy as np

from rnnjax.data.standardize import Standardizer


def test_constant_feature_is_only_shifted():
  """The mean of a constant may be rounded, so that its computed deviation is not 0."""
  rows = np.full((1000, 2), 0.1) * [1, 0]
  assert rows.std(0)[0] > 0
  standardizer = Standardizer.fit([rows[:400], rows[400:]])
  np.testing.assert_array_equal(standardizer.std, 1)
  np.testing.assert_allclose(standardizer(rows + 0.1), 0.1)


def test_float32_rows_are_summed_in_float64():
  rows = np.random.default_rng(0).normal(1000, 1, (1 << 20, 3)).astype(np.float32)
  standardizer, rows_float64 = Standardizer.fit([rows]), rows.astype(np.float64)
  assert standardizer.mean.dtype == standardizer.std.dtype == np.float32
  np.testing.assert_allclose(standardizer.mean, rows_float64.mean(0), rtol=1e-7)
  np.testing.assert_allclose(standardizer.std, rows_float64.std(0), rtol=1e-6)
  round_trip = standardizer.inverse(standardizer(rows[:9]))
  np.testing.assert_allclose(round_trip, rows[:9], rtol=1e-6)

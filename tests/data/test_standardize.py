"""Features in deviations from their mean, against float64."""

import numpy as np

from rnnjax.data.standardize import Standardizer


def test_constant_feature_is_only_shifted():
  """A constant whose mean is rounded has a deviation, of nothing but that."""
  rows = np.full((1000, 2), 0.1) * [1, 0]
  assert rows.std(0)[0] > 0
  scale = Standardizer.fit([rows[:400], rows[400:]])
  np.testing.assert_array_equal(scale.std, 1)
  np.testing.assert_allclose(scale(rows + 0.1), 0.1)


def test_float32_rows_are_summed_in_float64():
  rows = np.random.default_rng(0).normal(1000, 1, (1 << 20, 3)).astype(np.float32)
  scale, true = Standardizer.fit([rows]), rows.astype(np.float64)
  assert scale.mean.dtype == scale.std.dtype == np.float32
  np.testing.assert_allclose(scale.mean, true.mean(0), rtol=1e-7)
  np.testing.assert_allclose(scale.std, true.std(0), rtol=1e-6)
  np.testing.assert_allclose(scale.inverse(scale(rows[:9])), rows[:9], rtol=1e-6)

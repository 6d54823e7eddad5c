"""Features in deviations from their mean, against float64."""

import numpy as np

from rnnjax.data.standardize import Scale


def test_what_never_changes_is_only_moved():
  """A constant whose mean is rounded has a deviation, of nothing but that."""
  rows = np.full((1000, 2), 0.1) * [1, 0]
  assert rows.std(0)[0] > 0
  scale = Scale.of([rows[:400], rows[400:]])
  np.testing.assert_array_equal(scale.deviation, 1)
  np.testing.assert_allclose(scale(rows + 0.1), 0.1)


def test_many_rows_of_float32_are_summed_in_float64():
  rows = np.random.default_rng(0).normal(1000, 1, (1 << 20, 3)).astype(np.float32)
  scale, true = Scale.of([rows]), rows.astype(np.float64)
  assert scale.mean.dtype == scale.deviation.dtype == np.float32
  np.testing.assert_allclose(scale.mean, true.mean(0), rtol=1e-7)
  np.testing.assert_allclose(scale.deviation, true.std(0), rtol=1e-6)
  np.testing.assert_allclose(scale.inverse(scale(rows[:9])), rows[:9], rtol=1e-6)

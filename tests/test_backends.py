"""Every backend gives what the reference, scan, gives: outputs, carry and all gradients."""

import jax
import numpy as np
import pytest

from rnnjax.unroll import BACKENDS
from tests.cells_table import CASES, LENGTHS, NAMES, gradients, inputs

WAYS = [  # reverse, lengths, type, precision
  (False, None, np.float64, 1e-12),
  (True, LENGTHS, np.float64, 1e-12),
  (False, LENGTHS, np.float32, 1e-6),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "reverse, lengths, dtype, precision", WAYS, ids=["full", "reverse", "float32"]
)
@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"scan"}))
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_scan(case, backend, reverse, lengths, dtype, precision):
  """In its type, to the precision of that type, relative to the largest number."""
  args = case.params(dtype), inputs(dtype=dtype), lengths, case.carry(dtype=dtype), reverse
  one, two = (gradients(case.cell, *args, backend=name) for name in (backend, "scan"))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert a.dtype == b.dtype == dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * max(1, abs(b).max()))


def test_default_backend():
  """The default is one of them, and computes the same."""
  args = CASES[0].cell, CASES[0].params(np.float32), inputs(dtype=np.float32)
  (_, (_, ys)), _ = gradients(*args, LENGTHS, CASES[0].carry(dtype=np.float32))
  (_, (_, expected)), _ = gradients(
    *args, LENGTHS, CASES[0].carry(dtype=np.float32), backend="scan"
  )
  np.testing.assert_allclose(ys, expected, rtol=0, atol=1e-6)

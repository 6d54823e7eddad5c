"""Pre-activations and saturation of gates."""

import numpy as np
import pytest

from rnnjax import gru
from rnnjax.analysis import gates, gradient_flow
from tests.cell_cases import CASES, H, random_inputs

pytestmark = pytest.mark.usefixtures("float64")
CASE = {case.cell.name: case for case in CASES}
XS = random_inputs(batch=())


@pytest.mark.parametrize("name", ["vanilla(5)", "lstm(5)", "gru(5)", "leaky(5)"])
def test_gates_reproduce_next_carry(name):
  """`pointwise` computes the next carry from the gates and the previous carry."""
  cell, params = CASE[name].cell, CASE[name].params()
  carries = gradient_flow.collect_carries(cell, params, random_inputs())
  before, after = (tuple(part[steps] for part in carries) for steps in (slice(-1), slice(1, None)))
  zs = gates.gate_preactivations(cell, params, random_inputs())
  next_carry, _ = cell.pointwise(params, before, zs)
  for part, expected in zip(next_carry, after, strict=True):
    np.testing.assert_allclose(part, expected, atol=1e-12)


def test_gates_of_non_additive_cell_raise():
  with pytest.raises(ValueError, match=r"gru\(5, reset='before'\) is not additive"):
    gates.gate_preactivations(gru(H, reset="before"), {}, XS)


def test_saturation_on_small_example():
  """σ(−3) = 0.047 counts as closed, σ(3) as open, σ(±2) = 0.119, 0.881 as neither."""
  closed, opened = gates.gate_saturation(np.array([[-3.0, 2.0], [-2.0, 3.0], [-9.0, 3.0]]))
  np.testing.assert_allclose(closed, [2 / 3, 0])
  np.testing.assert_allclose(opened, [0, 2 / 3])

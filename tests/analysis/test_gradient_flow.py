"""Carries, gradient flow and spectral radii, compared with NumPy and autodiff."""

import jax
import numpy as np
import pytest

from rnnjax import unroll, vanilla
from rnnjax.analysis import gradient_flow
from tests import numpy_reference
from tests.cell_cases import CASES, NAMES, H, T, random_inputs

pytestmark = pytest.mark.usefixtures("float64")
XS = random_inputs(batch=())
DRAW = np.random.default_rng(5)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_carries_equal_reference(case):
  """Each carry equals the final carry of the NumPy reference for a shorter sequence."""
  params = case.params()
  carries = gradient_flow.collect_carries(case.cell, params, random_inputs())
  for t in range(T + 1):
    expected, _ = numpy_reference.unroll(
      case.reference, params, random_inputs()[:t], case.carry_sizes, None, False
    )
    for part, expected_part in zip(carries, expected, strict=True):
      np.testing.assert_allclose(part[t], expected_part, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradient_flow_equals_jacobian_norm(case):
  """The norms equal those of the Jacobian of the final h with respect to each carry."""
  params = case.params()
  carries = gradient_flow.collect_carries(case.cell, params, XS)
  norms = gradient_flow.jacobian_norms(case.cell, params, XS)
  for r in range(T):
    final_h = lambda carry, xs: unroll(case.cell, params, xs, carry=carry, backend="scan")[0][0]
    jacobian = jax.jacrev(final_h)(tuple(part[r] for part in carries), XS[r:])
    for norm, block in zip(norms, jacobian, strict=True):
      assert norm[r] == pytest.approx(np.linalg.norm(block) / np.sqrt(H), abs=1e-12)
  assert norms[0][T] == pytest.approx(1)


def test_orthogonal_recurrence_preserves_norm():
  """In h ← h U with an orthogonal U the norm is 1; with s U it is s^(T − r)."""
  U = np.linalg.qr(DRAW.normal(size=(H, H)))[0]
  cell = vanilla(H)._replace(step=lambda p, c, u: ((c[0] @ p["U"] + u,) * 1, u), pointwise=None)
  for s in (0.5, 1.0, 1.5):
    params = {"W": np.zeros((4, H)), "U": s * U, "b": np.zeros(H)}
    (norms,) = gradient_flow.jacobian_norms(cell, params, XS)
    np.testing.assert_allclose(norms, s ** np.arange(T, -1.0, -1), rtol=1e-12)
    assert gradient_flow.spectral_radii(params["U"])[0] == pytest.approx(s)


def test_spectral_radii_per_gate():
  """The spectral radius of a rotation times s is s; only recurrent matrices are included."""
  rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
  U = np.concatenate([0.5 * rotation, 3 * rotation], 1)
  cell, projected = {"U": U, "W": U}, {"U": U, "P": rotation}
  others = {"outputs": {"kernel": U}, "attention": {"U": np.ones((4, 3))}, "backward": projected}
  radii = gradient_flow.recurrent_spectral_radii({"encoder": {"forward": cell}} | others)
  name = "radius/encoder/forward/U"
  assert radii == pytest.approx({f"{name}/0": 0.5, f"{name}/1": 3.0})

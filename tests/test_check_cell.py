"""`check_cell`: the library's cells pass, and each law detects a cell that violates it."""

import jax
import jax.numpy as jnp
import pytest

from rnnjax import gru, lstm, mingru
from rnnjax.cells import additive, cell_factory, init_gates, zero_carry
from rnnjax.cells.base import zeros_like_batch
from rnnjax.testing import LAWS, check_cell
from tests.cell_cases import FORMS, H

CUSTOM_FORM = gru(H, reset="before")  # neither additive nor linear: only `step` is used


@pytest.mark.parametrize("cell", [case.cell for case in FORMS], ids=str)
def test_library_cells_pass(cell):
  check_cell(cell)


def change_step(change):
  """Return CUSTOM_FORM with a step that `change` wraps."""
  return CUSTOM_FORM._replace(
    step=lambda params, carry, u: change(CUSTOM_FORM.step, params, carry, u)
  )


@jax.custom_jvp
def half_gradient(x):
  return x


half_gradient.defjvp(lambda primals, tangents: (primals[0], 0.5 * tangents[0]))
TRACE_LOG = []


def impure_step(step, params, carry, u):
  """The result depends on how often the step was traced before."""
  TRACE_LOG.append(1)
  return step(params, carry, u + 0.1 * len(TRACE_LOG))


def float32_output_step(step, params, carry, u):
  carry, y = step(params, carry, u)
  return carry, y.astype(jnp.float32)


BROKEN = {
  "carry_starts_with_output": CUSTOM_FORM._replace(
    initial_carry=lambda x: (jnp.zeros((*x.shape[:-1], H), float),)
  ),
  "preserves_dtypes": change_step(float32_output_step),
  "batch_rows_independent": CUSTOM_FORM._replace(
    project=lambda p, x: CUSTOM_FORM.project(p, x - x.mean())
  ),
  "is_pure": change_step(impure_step),
  "ignores_padding": CUSTOM_FORM._replace(
    project=lambda p, x: CUSTOM_FORM.project(p, x) + jnp.sqrt(jnp.abs(x @ p["W"]))
  ),
  "gradients_are_correct": change_step(lambda step, p, c, u: step(p, c, half_gradient(u))),
  "backends_agree": lstm(H)._replace(pointwise=lambda p, c, g: lstm(H).pointwise(p, c, g[::-1])),
}


@pytest.mark.parametrize("law", [law.__name__ for law in LAWS])
def test_each_law_detects_broken_cell(law):
  with pytest.raises(AssertionError, match=rf"^[a-z]+\(5.*\) violates the law {law}: "):
    check_cell(BROKEN[law])


def test_linear_form_must_agree_with_step():
  """Some backends use `step` and some use `coefficients`."""
  cell = mingru(H)._replace(step=lambda p, c, u: mingru(H).step(p, c, 2 * u))
  with pytest.raises(AssertionError, match=r"'associative' and 'scan' disagree .* `linear_rec"):
    check_cell(cell)


@cell_factory
def gain_rnn(features: int):
  """Build a vanilla cell whose projected input is multiplied by a gain."""

  def init(key, D):
    return init_gates(key, D, features, 1) | {"gain": jnp.float32(0.3)}

  def pointwise(params, carry, gates):
    h = jnp.tanh(gates[0])
    return (h,), h

  def project(params, x):
    return params["gain"] * (x @ params["W"]) + params["b"]

  functions = {"init": init, "initial_carry": zero_carry(features)}
  return functions | additive(pointwise, 1) | {"project": project}


def test_custom_projection_passes():
  """Backends then do not use `pointwise`, which presupposes the projection x W + b."""
  check_cell(gain_rnn(H))
  assert gain_rnn(H).pointwise is None


def test_initial_carry_without_batch_axes_raises():
  cell = CUSTOM_FORM._replace(
    initial_carry=lambda x: (zeros_like_batch(x, H), jnp.zeros(H, x.dtype))
  )
  with pytest.raises(AssertionError, match=r"got \(5,\) for x \(3, 4\). Create it with zeros_l"):
    check_cell(cell)


def test_unhashable_cell_raises():
  with pytest.raises(TypeError, match="unhashable"):
    check_cell(CUSTOM_FORM._replace(name=["custom"]))

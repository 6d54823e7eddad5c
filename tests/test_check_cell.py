"""The public laws: our cells keep them, and each law finds the cell that breaks it."""

import jax
import jax.numpy as jnp
import pytest

from rnnjax import gru, lstm, mingru
from rnnjax.cells.base import additive, cell_factory, init_gates, zeros_like_batch
from rnnjax.testing import LAWS, check_cell
from tests.cell_cases import FORMS, H

PLAIN = gru(H, reset="before")  # whose step is its own


@pytest.mark.parametrize("cell", [case.cell for case in FORMS], ids=str)
def test_library_cells_pass(cell):
  check_cell(cell)


def change_step(change):
  """A cell whose step does something else before or after that of PLAIN."""
  return PLAIN._replace(step=lambda params, carry, u: change(PLAIN.step, params, carry, u))


@jax.custom_jvp
def half_gradient(x):
  return x


half_gradient.defjvp(lambda primals, tangents: (primals[0], 0.5 * tangents[0]))
TRACE_LOG = []


def impure_step(step, params, carry, u):
  """Whatever was traced before makes a difference."""
  TRACE_LOG.append(1)
  return step(params, carry, u + 0.1 * len(TRACE_LOG))


def float32_output_step(step, params, carry, u):
  carry, y = step(params, carry, u)
  return carry, y.astype(jnp.float32)


BROKEN = {
  "carry_starts_with_output": PLAIN._replace(
    initial_carry=lambda x: (jnp.zeros((*x.shape[:-1], H), float),)
  ),
  "preserves_dtypes": change_step(float32_output_step),
  "batch_rows_independent": PLAIN._replace(project=lambda p, x: PLAIN.project(p, x - x.mean())),
  "is_pure": change_step(impure_step),
  "ignores_padding": PLAIN._replace(
    project=lambda p, x: PLAIN.project(p, x) + jnp.sqrt(jnp.abs(x @ p["W"]))
  ),
  "gradients_are_correct": change_step(lambda step, p, c, u: step(p, c, half_gradient(u))),
  "backends_agree": lstm(H)._replace(pointwise=lambda p, c, g: lstm(H).pointwise(p, c, g[::-1])),
}


@pytest.mark.parametrize("law", [law.__name__ for law in LAWS])
def test_each_law_detects_broken_cell(law):
  with pytest.raises(AssertionError, match=rf"^[a-z]+\(5.*\) breaks the law {law}: "):
    check_cell(BROKEN[law])


def test_linear_form_must_agree_with_step():
  """Some backend runs the one, the others run the other."""
  cell = mingru(H)._replace(step=lambda p, c, u: mingru(H).step(p, c, 2 * u))
  with pytest.raises(AssertionError, match=r"'associative' and 'scan' disagree .* `linear`"):
    check_cell(cell)


@cell_factory
def gain_rnn(features: int):
  """A vanilla cell whose input is weighed before it is added."""
  made = additive(lambda p, carry, z: ((jnp.tanh(z[0]),), jnp.tanh(z[0])), 1)
  own = {"project": lambda p, x: p["gain"] * (x @ p["W"]) + p["b"]}
  begin = lambda key, D: init_gates(key, D, features, 1) | {"gain": jnp.float32(0.3)}
  return {"init": begin, "initial_carry": lambda x: (zeros_like_batch(x, features),), **made, **own}


def test_custom_projection_passes():
  """Then the step is not the pointwise function of x W + b and h U, and all backends know."""
  check_cell(gain_rnn(H))
  assert gain_rnn(H).pointwise is None


def test_initial_carry_without_batch_axes_raises():
  cell = PLAIN._replace(initial_carry=lambda x: (zeros_like_batch(x, H), jnp.zeros(H, x.dtype)))
  with pytest.raises(AssertionError, match=r"got \(5,\) for x \(3, 4\). Is it made with zeros"):
    check_cell(cell)


def test_unhashable_cell_raises():
  with pytest.raises(TypeError, match="unhashable"):
    check_cell(PLAIN._replace(name=["mine"]))

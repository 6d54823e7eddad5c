"""The public laws: our cells keep them, and each law finds the cell that breaks it."""

import jax
import jax.numpy as jnp
import pytest

from rnnjax import gru, lstm, mingru
from rnnjax.cells.base import additive, factory, init, zeros
from rnnjax.testing import LAWS, check_cell
from tests.cells_table import FORMS, H

PLAIN = gru(H, reset="before")  # whose step is its own


@pytest.mark.parametrize("cell", [case.cell for case in FORMS], ids=str)
def test_our_cells_keep_the_laws(cell):
  check_cell(cell)


def stepped(change):
  """A cell whose step does something else before or after that of PLAIN."""
  return PLAIN._replace(step=lambda params, carry, u: change(PLAIN.step, params, carry, u))


@jax.custom_jvp
def rounded(x):
  return x


rounded.defjvp(lambda primals, tangents: (primals[0], 0.5 * tangents[0]))
MEMORY = []


def counted(step, params, carry, u):
  """Whatever was traced before makes a difference."""
  MEMORY.append(1)
  return step(params, carry, u + 0.1 * len(MEMORY))


def narrow(step, params, carry, u):
  carry, y = step(params, carry, u)
  return carry, y.astype(jnp.float32)


BROKEN = {
  "carries_its_output": PLAIN._replace(start=lambda x: (jnp.zeros((*x.shape[:-1], H), float),)),
  "keeps_types": stepped(narrow),
  "keeps_rows_apart": PLAIN._replace(project=lambda p, x: PLAIN.project(p, x - x.mean())),
  "is_pure": stepped(counted),
  "ignores_padding": PLAIN._replace(
    project=lambda p, x: PLAIN.project(p, x) + jnp.sqrt(jnp.abs(x @ p["W"]))
  ),
  "differentiates": stepped(lambda step, p, c, u: step(p, c, rounded(u))),
  "runs_on_every_backend": lstm(H)._replace(
    pointwise=lambda p, c, g: lstm(H).pointwise(p, c, g[::-1])
  ),
}


@pytest.mark.parametrize("law", [law.__name__ for law in LAWS])
def test_each_law_finds_who_breaks_it(law):
  with pytest.raises(AssertionError, match=rf"^[a-z]+\(5.*\) breaks the law {law}: "):
    check_cell(BROKEN[law])


def test_a_linear_that_its_step_does_not_follow():
  """Some backend runs the one, the others run the other."""
  cell = mingru(H)._replace(step=lambda p, c, u: mingru(H).step(p, c, 2 * u))
  with pytest.raises(AssertionError, match=r"'associative' and 'scan' disagree .* `linear`"):
    check_cell(cell)


@factory
def gained(features: int):
  """A vanilla cell whose input is weighed before it is added."""
  made = additive(lambda p, carry, z: ((jnp.tanh(z[0]),), jnp.tanh(z[0])), 1)
  own = {"project": lambda p, x: p["gain"] * (x @ p["W"]) + p["b"]}
  begin = lambda key, D: init(key, D, features, 1) | {"gain": jnp.float32(0.3)}
  return {"init": begin, "start": lambda x: (zeros(x, features),), **made, **own}


def test_a_projection_of_its_own():
  """Then the step is not the pointwise function of x W + b and h U, and all backends know."""
  check_cell(gained(H))
  assert gained(H).pointwise is None


def test_a_start_that_forgets_the_batch():
  cell = PLAIN._replace(start=lambda x: (zeros(x, H), jnp.zeros(H, x.dtype)))
  with pytest.raises(AssertionError, match=r"got \(5,\) for x \(3, 4\). Is it made with zeros"):
    check_cell(cell)


def test_a_cell_without_hash():
  with pytest.raises(TypeError, match="unhashable"):
    check_cell(PLAIN._replace(name=["mine"]))

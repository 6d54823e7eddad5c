"""Error messages of `unroll`: what was expected, what was given, and the likely cause."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import lstm, unroll
from rnnjax.cells import cell_factory, zero_carry
from rnnjax.cells.base import zeros_like_batch
from tests.cell_cases import CASES, NAMES, B, D, H, T, random_inputs

CASE = CASES[NAMES.index("lstm(5)")]
XS = random_inputs(dtype=np.float32)
CARRY = CASE.carry(dtype=np.float32)
INVALID_INPUTS = {
  "token ids": (dict(xs=np.ones((T, B), int)), TypeError, "xs must be floating", "embedded?"),
  "one axis": (dict(xs=XS[0, 0]), ValueError, "at least two axes", "(4,)"),
  "batch-major": (
    dict(xs=XS.swapaxes(0, 1), lengths=np.full(B, T)),
    ValueError,
    "batch shape (6,) of xs (3, 6, 4)",
    "got int32 (3,)",
    "Is xs batch-major?",
  ),
  "float lengths": (dict(lengths=np.ones(B, "f")), ValueError, "must be integers", "float32"),
  "batch of carry": (
    dict(carry=CASE.carry((2,))),
    ValueError,
    "((3, 5), (3, 5))",
    "((2, 5), (2, 5))",
  ),
  "carry of a GRU": (dict(carry=CARRY[:1]), ValueError, "lstm(5).initial_carry", "another cell?"),
  "carry as a list": (dict(carry=list(CARRY)), ValueError, "carry must", "[(3, 5), (3, 5)]"),
  "backend": (dict(backend="cuda"), ValueError, "'auto' or one of", "'scan'", "got 'cuda'"),
  "remat": (dict(remat=0), ValueError, "remat must be a positive number", "got 0"),
}


@pytest.mark.parametrize(
  "changed, error, phrases",
  [(case[0], case[1], case[2:]) for case in INVALID_INPUTS.values()],
  ids=INVALID_INPUTS,
)
def test_invalid_input_raises(changed, error, phrases):
  """The message has the shapes that explain the mistake."""
  with pytest.raises(error) as raised:
    unroll(CASE.cell, CASE.params(np.float32), **{"xs": XS} | changed)
  assert all(phrase in str(raised.value) for phrase in phrases), raised.value


@cell_factory
def broken_cell(features: int, fault: str):
  """Build a cell whose step returns a wrong carry or output."""

  def step(params, carry, u):
    h = carry[0] + u
    returned = {
      "structure": ([h], h),
      "shape": ((h[..., :2],), h),
      "dtype": ((h.astype(jnp.float16),), h),
      "width of y": ((h,), h[..., :2]),
    }
    return returned[fault]

  return {
    "init": lambda key, D: {},
    "initial_carry": zero_carry(features),
    "project": lambda params, x: x,
    "step": step,
  }


@pytest.mark.parametrize(
  "fault, phrase",
  [
    ("structure", "it got ('float32[3, 4]',) and returned ['float32[3, 4]']"),
    ("shape", "it got ('float32[3, 4]',) and returned ('float32[3, 2]',)"),
    ("dtype", "it got ('float32[3, 4]',) and returned ('float16[3, 4]',)"),
    ("width of y", "must return y of shape (3, 4), its batch and its 4 features; got (3, 2)"),
  ],
)
def test_invalid_step_output_raises(fault, phrase):
  """The message has the expected and the returned dtypes and shapes."""
  message = f"the step of broken_cell({D}, fault={fault!r}) must return"
  with pytest.raises(ValueError, match=re.escape(message)) as raised:
    unroll(broken_cell(D, fault), {}, XS)
  assert phrase in str(raised.value)


@cell_factory
def unusual_cell(features: int, fault: str):
  """Build a cell with an integer counter in its carry, or with a step without derivative."""

  def step(params, carry, u):
    h, n = carry
    if fault == "loop":
      h = jax.lax.while_loop(lambda h: h.sum() < 1, lambda h: h + 1, h)
    return (jnp.tanh(h + u), n + 1), h

  count_dtype = jnp.int32 if fault == "count" else jnp.float32
  return {
    "init": lambda key, D: {},
    "initial_carry": lambda x: (
      zeros_like_batch(x, features),
      zeros_like_batch(x, 1, count_dtype),
    ),
    "project": lambda params, x: x,
    "step": step,
  }


def test_integer_carry_runs_and_is_differentiable():
  """An integer in the carry does not affect gradients; a backend without it raises the reason."""
  cell = unusual_cell(D, "count")
  (_, n), _ = unroll(cell, {}, XS, np.array([T, 0, 3]))
  np.testing.assert_array_equal(n[:, 0], [T, 0, 3])

  def loss(xs, cell):
    return unroll(cell, {}, xs)[1].sum()

  np.testing.assert_allclose(
    jax.grad(loss)(XS, cell), jax.grad(loss)(XS, unusual_cell(D, "")), rtol=1e-6
  )
  with pytest.raises(ValueError, match=r"unusual_cell\(4, fault='count'\) .*int32.*'scan' runs it"):
    unroll(cell, {}, XS, backend="deferred")


def test_non_differentiable_step_raises_in_backward_pass():
  """The forward pass runs; the error of the backward pass has a note with the cell."""
  cell = unusual_cell(D, "loop")

  def loss(xs):
    return unroll(cell, {}, xs)[1].sum()

  assert np.isfinite(loss(XS))
  with pytest.raises(ValueError, match="while_loop") as raised:
    jax.grad(loss)(XS)
  assert "one step of unusual_cell(4, fault='loop')" in "".join(raised.value.__notes__)


def test_forward_mode_raises_on_fast_backends():
  """Backends with a custom backward pass have no forward mode."""
  cell, params = CASE.cell, CASE.params(np.float32)
  with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
    jax.jvp(lambda xs: unroll(cell, params, xs)[1], (XS,), (XS,))


def test_parameters_of_other_input_size_raise():
  """Parameters for another input size raise instead of being broadcast."""
  with pytest.raises(TypeError, match=r"dot_general|contracting"):
    unroll(lstm(H), CASE.params(np.float32), XS[..., :3])

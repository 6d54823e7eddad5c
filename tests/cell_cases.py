"""Cells, their NumPy references and random data: the cases of all tests of cells and backends."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import backend_status, gru, lru, lstm, mingru, minlstm, unroll, vanilla
from rnnjax.cells import (
  Cell,
  additive,
  cell_factory,
  init_dense,
  init_gates,
  linear_recurrence,
  zero_carry,
)
from rnnjax.unroll import BACKENDS
from tests import numpy_reference

T, B, D, H = 6, 3, 4, 5
LENGTHS = np.array([6, 0, 3])


@cell_factory
def normed(features: int):
  """Build a cell of no special form: LayerNorm in step, no bias in project, and y is not h."""

  def init(key, D):
    return init_gates(key, D, features, 1) | {"gain": jnp.ones(features)}

  def project(params, x):
    return x @ params["W"]

  def step(params, carry, u):
    (h,) = carry
    z = u + h @ params["U"]
    z = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5)
    h = jnp.tanh(z * params["gain"] + params["b"])
    return (h,), h * h

  functions = {"init": init, "initial_carry": zero_carry(features)}
  return functions | {"project": project, "step": step}


def normed_reference(params, x, state):
  z = x @ params["W"] + state[0] @ params["U"]
  h = np.tanh((z - np.mean(z)) / np.sqrt(np.var(z) + 1e-5) * params["gain"] + params["b"])
  return [h], h**2


@cell_factory
def leaky(features: int):
  """Build an additive cell with an extra parameter, a split gate, and y different from h."""

  def init(key, D):
    return init_gates(key, D, features, 2) | {"leak": jnp.ones(features)}

  def pointwise(params, carry, gates):
    z, u, v = gates
    h = params["leak"] * carry[0] + jnp.tanh(z)
    return (h,), h * u + v

  functions = {"init": init, "initial_carry": zero_carry(features)}
  return functions | additive(pointwise, 2, num_split_gates=1)


def leaky_reference(params, x, state):
  H = len(state[0])
  u, v = x @ params["W"] + params["b"], state[0] @ params["U"]
  h = params["leak"] * state[0] + np.tanh((u + v)[:H])
  return [h], h * u[H:] + v[H:]


@cell_factory
def quasi(features: int):
  """Build a linear recurrence with an output gate: a quasi-recurrent network (QRNN)."""

  def init(key, D):
    return init_dense(jax.random.split(key, 3), D, features)

  def coefficients(params, u):
    z, f, _ = jnp.split(u, 3, -1)
    f = jax.nn.sigmoid(f)
    return f, (1 - f) * jnp.tanh(z)

  def readout(params, s, u):
    return jax.nn.sigmoid(u[..., 2 * features :]) * s

  functions = {"init": init, "initial_carry": zero_carry(features, features)}
  return functions | linear_recurrence(coefficients, readout)


def quasi_reference(params, x, state):
  z, f, o = np.split(x @ params["W"] + params["b"], 3)
  c = numpy_reference.σ(f) * state[1] + (1 - numpy_reference.σ(f)) * np.tanh(z)
  h = numpy_reference.σ(o) * c
  return [h, c], h


STATIC = ("cell", "reverse", "remat", "backend")
jit_unroll = jax.jit(unroll, static_argnames=STATIC)


@functools.partial(jax.jit, static_argnames=STATIC)
def value_and_gradients(
  cell, params, xs, lengths, carry, reverse=False, remat=None, backend="auto"
):
  """Return ((loss, (final carry, ys)), gradients for params, xs and carry).

  The loss is Σ sin(ys) + Σ cos(carry), so that each output has a different gradient.
  """

  def loss(params, xs, carry):
    options = dict(carry=carry, reverse=reverse, remat=remat, backend=backend)
    carry, ys = unroll(cell, params, xs, lengths, **options)
    return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry), (carry, ys)

  return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)


class Case(NamedTuple):
  """A cell and its reference.

  Attributes:
    cell: the cell.
    reference: one step in NumPy, (params, x [D], state) -> (state, y).
    carry_sizes: feature sizes of the arrays in the carry.
  """

  cell: Cell
  reference: object
  carry_sizes: tuple[int, ...]

  def params(self, dtype=np.float64):
    """Return random parameters. None is zero, because a zero bias or gain would hide errors."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), D))
    return {name: rng.normal(0, 0.6, p.shape).astype(dtype) for name, p in shapes.items()}

  def carry(self, batch=(B,), dtype=np.float64):
    """Return a random initial carry."""
    rng = np.random.default_rng(1)
    return tuple(rng.normal(0, 1, (*batch, size)).astype(dtype) for size in self.carry_sizes)


def random_inputs(steps=T, batch=(B,), dtype=np.float64):
  """Return random xs [steps, *batch, D]."""
  return np.random.default_rng(2).normal(0, 1, (steps, *batch, D)).astype(dtype)


def _lstm_case(**options):
  switches = {k: v for k, v in options.items() if k in ("coupled", "output_tanh")}
  reference = functools.partial(numpy_reference.lstm, **switches)
  return Case(lstm(H, **options), reference, (H, options.get("cell_size", H)))


CASES = (
  Case(vanilla(H), numpy_reference.vanilla, (H,)),
  Case(vanilla(H, activation="relu"), numpy_reference.relu_rnn, (H,)),
  _lstm_case(),
  _lstm_case(peepholes=True),
  _lstm_case(coupled=True),
  _lstm_case(output_tanh=False),
  _lstm_case(cell_size=7),
  _lstm_case(peepholes=True, coupled=True, output_tanh=False, cell_size=7),
  Case(gru(H, reset="before"), numpy_reference.gru_reset_before, (H,)),
  Case(gru(H), numpy_reference.gru_reset_after, (H,)),
  Case(normed(H), normed_reference, (H,)),
  Case(leaky(H), leaky_reference, (H,)),
  Case(mingru(H), numpy_reference.mingru, (H, H)),
  Case(minlstm(H), numpy_reference.minlstm, (H, H)),
  Case(lru(H, num_states=3), numpy_reference.lru, (H, 3, 3)),
  Case(quasi(H), quasi_reference, (H, H)),
)
NAMES = [case.cell.name for case in CASES]
# The laws of the loop are tested with one cell of each form, on every backend that runs it. The
# reference loop is also tested with a simple cell and those with the longest steps. test_cells.py
# tests all options of cells.
FORMS = [
  CASES[NAMES.index(name)]
  for name in "lstm(5)|gru(5)|normed(5)|leaky(5)|mingru(5)|lru(5, num_states=3)|quasi(5)".split("|")
]
LONGEST = [case for case in CASES if len(case.cell.name) > 30 or "before" in case.cell.name]


def is_supported(case, backend, dtype=np.float64):
  """Return whether a backend can run a case in a dtype here.

  Newton's method does not use the form of a cell and takes long to compile, so it runs two cases.
  """
  if backend == "newton" and case not in (FORMS[0], FORMS[2]):
    return False
  with jax.enable_x64(True):
    return not backend_status(case.cell, case.params(dtype), random_inputs(dtype=dtype))[backend]


PAIRS = [(case, "scan") for case in [CASES[0], *FORMS, *LONGEST]] + [
  (case, backend)
  for backend in sorted(set(BACKENDS) - {"scan"})
  for case in FORMS
  if is_supported(case, backend)
]
over_cells_and_backends = pytest.mark.parametrize(
  "case, backend", PAIRS, ids=[f"{case.cell}-{backend}" for case, backend in PAIRS]
)

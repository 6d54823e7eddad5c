"""All cells and their variants, in one table against which every law is held."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import backend_status, gru, lru, lstm, mingru, minlstm, unroll, vanilla
from rnnjax.cells import Cell, cell_factory
from rnnjax.cells.base import (
  accumulation_dtype,
  additive,
  init_dense,
  init_gates,
  linear_recurrence,
  zeros_like_batch,
)
from rnnjax.unroll import BACKENDS
from tests import numpy_reference

T, B, D, H = 6, 3, 4, 5
LENGTHS = np.array([6, 0, 3])


@cell_factory
def normed(features: int):
  """A user's own step: LayerNorm inside, no bias in project, and y is not h."""

  def begin(key, D):
    return init_gates(key, D, features, 1) | {"gain": jnp.ones(features)}

  def step(params, carry, u):
    (h,) = carry
    z = u + h @ params["U"]
    z = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5)
    h = jnp.tanh(z * params["gain"] + params["b"])
    return (h,), h * h

  start = lambda x: (zeros_like_batch(x, features),)
  project = lambda params, x: x @ params["W"]
  return {"init": begin, "initial_carry": start, "project": project, "step": step}


def normed_reference(params, x, state):
  z = x @ params["W"] + state[0] @ params["U"]
  h = np.tanh((z - np.mean(z)) / np.sqrt(np.var(z) + 1e-5) * params["gain"] + params["b"])
  return [h], h**2


@cell_factory
def leaky(features: int):
  """A user's own additive cell: one more parameter, one block kept apart, and y is not h."""

  def pointwise(params, carry, gates):
    z, u, v = gates
    h = params["leak"] * carry[0] + jnp.tanh(z)
    return (h,), h * u + v

  begin = lambda key, D: init_gates(key, D, features, 2) | {"leak": jnp.ones(features)}
  start = lambda x: (zeros_like_batch(x, features),)
  return {"init": begin, "initial_carry": start, **additive(pointwise, 2, num_split_gates=1)}


def leaky_reference(params, x, state):
  H = len(state[0])
  u, v = x @ params["W"] + params["b"], state[0] @ params["U"]
  h = params["leak"] * state[0] + np.tanh((u + v)[:H])
  return [h], h * u[H:] + v[H:]


@cell_factory
def quasi(features: int):
  """A user's own linear cell, a quasi-recurrent net's: a real state behind an output gate."""

  def coefficients(params, u):
    z, f, _ = jnp.split(u, 3, -1)
    f = jax.nn.sigmoid(f)
    return f, (1 - f) * jnp.tanh(z)

  def read(params, s, u):
    return jax.nn.sigmoid(u[..., 2 * features :]) * s

  begin = lambda key, D: init_dense(jax.random.split(key, 3), D, features)
  start = lambda x: (
    zeros_like_batch(x, features),
    zeros_like_batch(x, features, accumulation_dtype(x.dtype)),
  )
  return {"init": begin, "initial_carry": start, **linear_recurrence(coefficients, read)}


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
  """((loss, (last carry, ys)), gradients for params, xs and carry).

  The loss is Σ sin(ys) + Σ cos(carry), so that every output has a gradient of its own.
  """

  def loss(params, xs, carry):
    options = dict(carry=carry, reverse=reverse, remat=remat, backend=backend)
    carry, ys = unroll(cell, params, xs, lengths, **options)
    return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry), (carry, ys)

  return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)


class Case(NamedTuple):
  """A cell, its oracle, and the widths of its carry."""

  cell: Cell
  reference: object
  carry_sizes: tuple[int, ...]

  def params(self, dtype=np.float64):
    """Random parameters: no bias, gain or peephole is zero, behind which an error could hide."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), D))
    return {name: draw.normal(0, 0.6, p.shape).astype(dtype) for name, p in shapes.items()}

  def carry(self, batch=(B,), dtype=np.float64):
    """A random first carry."""
    draw = np.random.default_rng(1)
    return tuple(draw.normal(0, 1, (*batch, width)).astype(dtype) for width in self.carry_sizes)


def random_inputs(steps=T, batch=(B,), dtype=np.float64):
  """Random xs [steps, *batch, D]."""
  return np.random.default_rng(2).normal(0, 1, (steps, *batch, D)).astype(dtype)


def _lstm_case(**options):
  switches = {k: v for k, v in options.items() if k in ("coupled", "output_tanh")}
  tick = lambda *args: numpy_reference.lstm(*args, **switches)
  return Case(lstm(H, **options), tick, (H, options.get("cell_size", H)))


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
# The laws of the loop are held by one cell of each form, on every backend that runs it, and on the
# reference by a simple one and by those whose step is longest; all options are in test_cells.py.
LINEAR = [case for case in CASES if case.cell.coefficients]
FORMS = [
  CASES[NAMES.index(name)]
  for name in "lstm(5)|gru(5)|normed(5)|leaky(5)|mingru(5)|lru(5, num_states=3)|quasi(5)".split("|")
]
LONGEST = [case for case in CASES if len(case.cell.name) > 30 or "before" in case.cell.name]


def is_supported(case, backend, dtype=np.float64):
  """Whether a backend takes a case in a type here; what it refuses it need not get right.

  Newton's method, which knows no form of a cell and takes long to compile, is tried on two.
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

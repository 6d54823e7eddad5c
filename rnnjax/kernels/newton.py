"""Newton's method over time: all steps of a nonlinear cell at once.

Lim, Zhu, Selfridge & Kasim, Parallelizing Non-Linear Sequential Models over the Sequence Length,
2024 (DEER); Gonzalez, Warrington, Smith & Linderman, Towards Scalable and Stable Parallelization of
Nonlinear RNNs, 2024 (diagonal Jacobians). The carries of all steps are guessed. As long as they do
not follow from one another, the steps are linearised around them, and what is linear in time can
be solved in log₂ T rounds (`rnnjax.kernels.linear`):

    rₜ = f(sₜ₋₁, xₜ) − sₜ                     the residual of a guess s₁, ..., s_T
    δₜ = Jₜ δₜ₋₁ + rₜ,   Jₜ = ∂f/∂s(sₜ₋₁)     how wrong it is, to first order
    sₜ ← sₜ + δₜ                              after k times the first k steps are exact

Where it ends, s is what a loop gives, and so are its gradients, by the implicit function: the way
back is the same recurrence once, transposed, with nothing to iterate:

    μₜ = Jₜᵀ μₜ₊₁ + (∂yₜ/∂sₜ₋₁)ᵀ ∂L/∂yₜ      μₜ = ∂L/∂sₜ₋₁
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import Cell, wide
from rnnjax.kernels.back import add
from rnnjax.kernels.backend import unless_floating
from rnnjax.kernels.linear import at_once, in_turn, push, shifted
from rnnjax.kernels.rows import on_own_rows, varying
from rnnjax.kernels.scan import tick
from rnnjax.types import Array, Carry, Params

FORMS = ("full", "diagonal")
LIMIT = 2.0  # GiB that the Jacobians of all steps may take


class Newton(NamedTuple):
  """How the steps are solved; this changes time and memory, not results.

  Attributes:
    form: "full" Jacobians, n³ work a step and quadratic convergence, or their "diagonal", n work
      and more iterations. The way back takes full ones.
    damping: in [0, 1): the Jacobians are multiplied by 1 − damping, which tames those that expand.
    tolerance: of |rₜ| / max(1, |sₜ|); None for 16 units of rounding.
    iterations: after so many the steps are taken one by one.
  """

  form: str = "full"
  damping: float = 0.0
  tolerance: float | None = None
  iterations: int = 100


class Found(NamedTuple):
  """What came of it.

  Attributes:
    iterations: how often all steps were linearised.
    residual: the largest |rₜ| / max(1, |sₜ|) after them.
    converged: whether it is within the tolerance; if not, a loop over time was run instead.
  """

  iterations: Array
  residual: Array
  converged: Array


def newton(
  cell: Cell, params: Params, xs: Array, alive: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, by `solve` as it comes; on a mesh each device solves its own rows."""
  run = lambda *args: solve(cell, *args, reverse)[:2]
  return on_own_rows(run)(params, xs, alive, carry)


def unless_narrow(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that makes the Jacobian of every step."""
  n = sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
  GiB = xs.size // max(1, xs.shape[-1]) * n**2 * wide(xs.dtype).itemsize / 2**30
  if GiB <= LIMIT:
    return unless_floating(cell, params, xs, carry)
  return (
    f"the Jacobians [{n}, {n}] of the carry of {cell} at every step of xs {xs.shape} would take "
    f"{GiB:.1f} GiB, more than {LIMIT:.0f}; backend='scan' runs it"
  )


def solve(
  cell: Cell,
  params: Params,
  xs: Array,
  alive: Array | None = None,
  carry: Carry | None = None,
  reverse: bool = False,
  how: Newton = Newton(),
) -> tuple[Carry, Array, Found]:
  """All steps at once, and how many iterations it took; one after the other if it took too many.

  It computes in float32 at least. Not differentiable in forward mode (jvp): `scan` is.

  Args:
    cell, params, xs, alive, reverse: as for `scan`; xs [T, ..., D], T ≥ 1.
    carry: the first carry; the cell's own where None.
    how: form, damping, tolerance and iterations.

  Returns:
    carry, ys [T, ..., H], found.
  """
  if how.form not in FORMS or not 0 <= how.damping < 1 or how.iterations < 0:
    raise ValueError(
      f"form must be one of {FORMS}, damping in [0, 1), iterations 0 or more; got {how}"
    )
  carry = cell.start(xs[0]) if carry is None else carry
  high = lambda tree: jax.tree.map(lambda a: a.astype(wide(a.dtype)), tree)
  params, start = (varying(high(tree), xs) for tree in (params, carry))
  (end, ys, _), found = _run(cell, how, reverse, params, high(xs), alive, start)
  return jax.tree.map(lambda e, c: e.astype(c.dtype), end, carry), ys.astype(xs.dtype), found


def _flat(carry):
  """s [..., n]: the parts of a carry side by side."""
  return jnp.concatenate(jax.tree.leaves(carry), -1)


def _parts(s, like):
  """The carry that s [..., n] is, with the widths and types of another."""
  leaves, structure = jax.tree.flatten(like)
  ends = [sum(leaf.shape[-1] for leaf in leaves[:i]) for i in range(1, len(leaves))]
  parts = [part.astype(leaf.dtype) for part, leaf in zip(jnp.split(s, ends, -1), leaves)]
  return jax.tree.unflatten(structure, parts)


def _linearised(cell, params, xs, alive, start, before, form="full"):
  """f(sₜ₋₁, xₜ) [T, ..., n] and Jₜ [T, ..., n, n], or its diagonal [T, ..., n], of all steps."""
  # The unit vectors have no batch axis, nor has e U, the only product of a Jacobian.
  units = varying(jnp.eye(before.shape[-1], dtype=before.dtype), xs)

  def row(x, alive, s):
    step = lambda s: _flat(tick(cell, params, _parts(s, start), (x, alive))[0])
    new, J = jax.vmap(lambda e: jax.jvp(step, (s,), (e,)), out_axes=(None, -1))(units)
    return new, J if form == "full" else (J * units).sum(-1)

  for _ in before.shape[:-1]:
    row = jax.vmap(row)
  return row(xs, alive, before)


def _iterated(cell, how, reverse, params, xs, alive, start):
  """s [T, ..., n], and what came of it."""
  first, scale = _flat(start), 1 - how.damping
  eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(start))
  tolerance = 16 * eps if how.tolerance is None else how.tolerance
  # What need not be iterated: u is made once, and is its own projection.
  us, fed = cell.project(params, xs), cell._replace(project=lambda params, u: u)

  def at(s):
    before = shifted(first, s, reverse)
    new, J = _linearised(fed, params, us, alive, start, before, how.form)
    r = new - s
    return s, J, r, jnp.max(jnp.abs(r) / jnp.maximum(1, jnp.abs(s)), initial=0.0)

  def goes_on(state):
    k, *_, residual = state
    return (k < how.iterations) & (residual > tolerance) & (residual < jnp.inf)

  def improve(state):
    k, s, J, r, _ = state
    return k + 1, *at(s + at_once(scale * J, r, reverse))

  guess = jnp.broadcast_to(first, (len(xs), *first.shape))
  k, s, _, _, residual = jax.lax.while_loop(goes_on, improve, (0, *at(guess)))
  return s, Found(k, residual, residual <= tolerance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(cell, how, reverse, params, xs, alive, start):
  """((the last carry, ys, the carry that enters each step), found)."""
  s, found = _iterated(cell, how, reverse, params, xs, alive, start)

  def together():
    before = _parts(shifted(_flat(start), s, reverse), start)
    after, ys = tick(cell, params, before, (xs, alive))
    return jax.tree.map(lambda a: a[0 if reverse else -1], after), ys, before

  def in_a_loop():
    def step(carry, inputs):
      new, y = tick(cell, params, carry, inputs)
      return new, (y, carry)

    end, (ys, before) = jax.lax.scan(step, start, (xs, alive), reverse=reverse)
    return end, ys, before

  return jax.lax.cond(found.converged, together, in_a_loop), found


def _forward(cell, how, reverse, params, xs, alive, start):
  out, found = _run(cell, how, reverse, params, xs, alive, start)
  return (out, found), (params, xs, alive, start, out[2], found.converged)


def _backward(cell, how, reverse, saved, cotangents):
  """The recurrence back in time, and then the share of all steps in params and xs at once."""
  del how
  params, xs, alive, start, before, converged = saved
  (dend, dys, dbefore), _ = cotangents
  steps = lambda params, xs, before: tick(cell, params, before, (xs, alive))
  (after, _), back = jax.vjp(steps, params, xs, before)
  seen = back((jax.tree.map(jnp.zeros_like, after), dys))[2]
  _, J = _linearised(cell, params, xs, alive, start, _flat(before))
  JT, q, last = J.swapaxes(-1, -2), _flat(add(seen, dbefore)), 0 if reverse else -1
  q = q.at[last].add(push(JT[last], _flat(dend)))
  solver = lambda way: functools.partial(way, reverse=not reverse)
  μ = jax.lax.cond(converged, solver(at_once), solver(in_turn), JT, q)
  λ = shifted(_flat(dend), μ, not reverse)
  dparams, dxs, _ = back((_parts(λ, start), dys))
  return dparams, dxs, None, _parts(μ[-1 if reverse else 0], start)


_run.defvjp(_forward, _backward)

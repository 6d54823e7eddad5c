"""The loop over time as an equation, and its gradients by the implicit function theorem.

However the carries that solve sₜ = f(sₜ₋₁, xₜ) were found, the way back needs nothing of it. It is
one linear recurrence, back in time, and then the share of all steps in the gradients at once:

    μₜ = Jₜᵀ μₜ₊₁ + (∂yₜ/∂sₜ₋₁)ᵀ ∂L/∂yₜ        μₜ = ∂L/∂sₜ₋₁,  Jₜ = ∂f/∂s(sₜ₋₁)
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.deferred_vjp import add
from rnnjax.backends.linear_scan import at_once, in_turn, push, shifted
from rnnjax.backends.newton.jacobians import flat, linearised, parts
from rnnjax.backends.scan import tick


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def solved(find, cell, reverse, params, xs, alive, start):
  """All steps of a cell from carries that were found, or one by one where they were not.

  Args:
    find: params, xs, alive, start -> s [T, ..., n], found; with found.converged, whether s solves.
    cell, reverse, params, xs, alive: as for `scan`.
    start: the first carry.

  Returns:
    (the last carry, ys, the carry before each step), found.
  """
  s, found = find(params, xs, alive, start)

  def together():
    before = parts(shifted(flat(start), s, reverse), start)
    after, ys = tick(cell, params, before, (xs, alive))
    return jax.tree.map(lambda a: a[0 if reverse else -1], after), ys, before

  def one_by_one():
    def step(carry, inputs):
      new, y = tick(cell, params, carry, inputs)
      return new, (y, carry)

    end, (ys, before) = jax.lax.scan(step, start, (xs, alive), reverse=reverse)
    return end, ys, before

  return jax.lax.cond(found.converged, together, one_by_one), found


def _forward(find, cell, reverse, params, xs, alive, start):
  out, found = solved(find, cell, reverse, params, xs, alive, start)
  return (out, found), (params, xs, alive, start, out[2], found.converged)


def _backward(find, cell, reverse, saved, cotangents):
  del find
  params, xs, alive, start, before, converged = saved
  (dend, dys, dbefore), _ = cotangents
  steps = lambda params, xs, before: tick(cell, params, before, (xs, alive))
  (after, _), back = jax.vjp(steps, params, xs, before)
  seen = back((jax.tree.map(jnp.zeros_like, after), dys))[2]
  _, J = linearised(cell, params, xs, alive, start, flat(before))
  JT, q = J.swapaxes(-1, -2), flat(add(seen, dbefore))
  first, last = (-1, 0) if reverse else (0, -1)
  q = q.at[last].add(push(JT[last], flat(dend)))
  # What expands has products of Jacobians that overflow, though no gradient may.
  once, turn = (functools.partial(way, reverse=not reverse) for way in (at_once, in_turn))
  μ = jax.lax.cond(converged, once, turn, JT, q)
  μ = jax.lax.cond(jnp.isfinite(μ).all(), lambda *_: μ, turn, JT, q)
  after = parts(shifted(flat(dend), μ, not reverse), start)
  dparams, dxs, _ = back((after, dys))
  return dparams, dxs, None, parts(μ[first], start)


solved.defvjp(_forward, _backward)

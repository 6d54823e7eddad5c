"""The loop over time as an equation, and its gradients by the implicit function theorem.

However the carries that solve sₜ = f(sₜ₋₁, xₜ) were found, the way back needs nothing of it. It is
one linear recurrence, back in time, and then the share of all steps in the gradients at once:

    μₜ = Jₜᵀ μₜ₊₁ + (∂yₜ/∂sₜ₋₁)ᵀ ∂L/∂yₜ        μₜ = ∂L/∂sₜ₋₁,  Jₜ = ∂f/∂s(sₜ₋₁)
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.deferred_vjp import tree_add
from rnnjax.backends.linear_scan import (
  matvec,
  parallel_linear_scan,
  sequential_linear_scan,
  shift_one_step,
)
from rnnjax.backends.newton.jacobians import flatten_carry, step_jacobians, unflatten_carry
from rnnjax.backends.scan import masked_step


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def solve_with_implicit_vjp(solver, cell, reverse, params, xs, mask, initial_carry):
  """All steps of a cell from carries that were found, or one by one where they were not.

  Args:
    find: params, xs, alive, start -> s [T, ..., n], found; with found.converged, whether s solves.
    cell, reverse, params, xs, alive: as for `scan`.
    start: the first carry.

  Returns:
    (the last carry, ys, the carry before each step), found.
  """
  s, found = solver(params, xs, mask, initial_carry)

  def together():
    before = unflatten_carry(
      shift_one_step(flatten_carry(initial_carry), s, reverse), initial_carry
    )
    after, ys = masked_step(cell, params, before, (xs, mask))
    return jax.tree.map(lambda a: a[0 if reverse else -1], after), ys, before

  def one_by_one():
    def step(carry, inputs):
      new, y = masked_step(cell, params, carry, inputs)
      return new, (y, carry)

    end, (ys, before) = jax.lax.scan(step, initial_carry, (xs, mask), reverse=reverse)
    return end, ys, before

  return jax.lax.cond(found.converged, together, one_by_one), found


def _forward(solver, cell, reverse, params, xs, mask, initial_carry):
  out, found = solve_with_implicit_vjp(solver, cell, reverse, params, xs, mask, initial_carry)
  return (out, found), (params, xs, mask, initial_carry, out[2], found.converged)


def _backward(solver, cell, reverse, saved, cotangents):
  del solver
  params, xs, alive, start, before, converged = saved
  (dend, dys, dbefore), _ = cotangents
  steps = lambda params, xs, before: masked_step(cell, params, before, (xs, alive))
  (after, _), back = jax.vjp(steps, params, xs, before)
  seen = back((jax.tree.map(jnp.zeros_like, after), dys))[2]
  _, J = step_jacobians(cell, params, xs, alive, start, flatten_carry(before))
  JT, q = J.swapaxes(-1, -2), flatten_carry(tree_add(seen, dbefore))
  first, last = (-1, 0) if reverse else (0, -1)
  q = q.at[last].add(matvec(JT[last], flatten_carry(dend)))
  # What expands has products of Jacobians that overflow, though no gradient may.
  once, turn = (
    functools.partial(way, reverse=not reverse)
    for way in (parallel_linear_scan, sequential_linear_scan)
  )
  μ = jax.lax.cond(converged, once, turn, JT, q)
  μ = jax.lax.cond(jnp.isfinite(μ).all(), lambda *_: μ, turn, JT, q)
  after = unflatten_carry(shift_one_step(flatten_carry(dend), μ, not reverse), start)
  dparams, dxs, _ = back((after, dys))
  return dparams, dxs, None, unflatten_carry(μ[first], start)


solve_with_implicit_vjp.defvjp(_forward, _backward)

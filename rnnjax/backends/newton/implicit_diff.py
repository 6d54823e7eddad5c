"""Gradients of the solution of a recurrence, by the implicit function theorem.

If the states solve sₜ = f(sₜ₋₁, xₜ), the gradients do not depend on how the states were computed.
The backward pass is a linear recurrence, backward in time:

    μₜ = Jₜᵀ μₜ₊₁ + (∂yₜ/∂sₜ₋₁)ᵀ ∂L/∂yₜ        μₜ = ∂L/∂sₜ₋₁,  Jₜ = ∂f/∂s(sₜ₋₁)

The gradients of the parameters and inputs are then computed from μ for all steps at once.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import tree_add
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
  """Run a cell with `solver`; if the solver does not converge, run the steps one by one.

  Args:
    solver: (params, xs, mask, initial_carry) -> (s [T, ..., n], info). s contains the states after
      each step, and info.converged is True if s solves the recurrence.
    cell, reverse, params, xs, mask: as for `rnnjax.backends.scan.scan`.
    initial_carry: the initial carry.

  Returns:
    ((final_carry, ys, prev_carries), info), where prev_carries contains the carry before each step.
  """
  s, info = solver(params, xs, mask, initial_carry)

  def run_all_at_once():
    prev_s = shift_one_step(flatten_carry(initial_carry), s, reverse)
    prev_carries = unflatten_carry(prev_s, initial_carry)
    new_carries, ys = masked_step(cell, params, prev_carries, (xs, mask))
    return jax.tree.map(lambda a: a[0 if reverse else -1], new_carries), ys, prev_carries

  def run_one_by_one():
    def step(carry, inputs):
      new_carry, y = masked_step(cell, params, carry, inputs)
      return new_carry, (y, carry)

    final_carry, (ys, prev_carries) = jax.lax.scan(step, initial_carry, (xs, mask), reverse=reverse)
    return final_carry, ys, prev_carries

  return jax.lax.cond(info.converged, run_all_at_once, run_one_by_one), info


def _forward(solver, cell, reverse, params, xs, mask, initial_carry):
  results, info = solve_with_implicit_vjp(solver, cell, reverse, params, xs, mask, initial_carry)
  _, _, prev_carries = results
  return (results, info), (params, xs, mask, initial_carry, prev_carries, info.converged)


def _backward(solver, cell, reverse, saved, cotangents):
  del solver
  params, xs, mask, initial_carry, prev_carries, converged = saved
  (dfinal_carry, dys, dprev_carries), _ = cotangents

  def all_steps(params, xs, prev_carries):
    return masked_step(cell, params, prev_carries, (xs, mask))

  (new_carries, _), vjp = jax.vjp(all_steps, params, xs, prev_carries)
  zeros = jax.tree.map(jnp.zeros_like, new_carries)
  _, _, dcarries_by_output = vjp((zeros, dys))  # (∂yₜ/∂sₜ₋₁)ᵀ ∂L/∂yₜ
  _, J = step_jacobians(cell, params, xs, mask, initial_carry, flatten_carry(prev_carries))
  JT, q = J.swapaxes(-1, -2), flatten_carry(tree_add(dcarries_by_output, dprev_carries))
  first, last = (-1, 0) if reverse else (0, -1)
  q = q.at[last].add(matvec(JT[last], flatten_carry(dfinal_carry)))
  # If the recurrence expands, products of Jacobians can overflow even if all gradients are finite.
  # Then the gradients are computed step by step.
  parallel = functools.partial(parallel_linear_scan, reverse=not reverse)
  sequential = functools.partial(sequential_linear_scan, reverse=not reverse)
  μ = jax.lax.cond(converged, parallel, sequential, JT, q)
  μ = jax.lax.cond(jnp.isfinite(μ).all(), lambda *_: μ, sequential, JT, q)
  dnew_carries = shift_one_step(flatten_carry(dfinal_carry), μ, not reverse)
  dparams, dxs, _ = vjp((unflatten_carry(dnew_carries, initial_carry), dys))
  return dparams, dxs, None, unflatten_carry(μ[first], initial_carry)


solve_with_implicit_vjp.defvjp(_forward, _backward)

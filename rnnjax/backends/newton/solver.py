"""Newton's method over time, which computes all steps of a nonlinear cell in parallel.

Lim, Zhu, Selfridge & Kasim, Parallelizing Non-Linear Sequential Models over the Sequence Length,
2024 (DEER); Gonzalez, Warrington, Smith & Linderman, Towards Scalable and Stable Parallelization of
Nonlinear RNNs, 2024 (diagonal Jacobians).

The method starts from a guess of the states at all steps. Each iteration linearizes the recurrence
around the current states. It then solves the linearized recurrence with a scan of depth log₂ T
(`rnnjax.backends.linear_scan`) and updates the states:

    rₜ = f(sₜ₋₁, xₜ) − sₜ                     residual of a guess s₁, ..., s_T
    δₜ = Jₜ δₜ₋₁ + rₜ,   Jₜ = ∂f/∂s(sₜ₋₁)     error of the guess, to first order
    sₜ ← sₜ + δₜ                              after k iterations the first k steps are exact

After convergence, s equals the states of a sequential loop. The backward pass solves one linear
recurrence with the transposed Jacobians (`rnnjax.backends.newton.implicit_diff`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import (
  Backend,
  cast_to_varying,
  mixes_rows,
  project_steps,
  requires_floating,
  shard_over_batch,
)
from rnnjax.backends.linear_scan import parallel_linear_scan, shift_one_step
from rnnjax.backends.newton.implicit_diff import solve_with_implicit_vjp
from rnnjax.backends.newton.jacobians import flatten_carry, step_jacobians
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params

JACOBIAN_FORMS = ("full", "diagonal")
MAX_JACOBIAN_GIB = 2.0  # maximum size of the Jacobians of all steps, in GiB


class NewtonOptions(NamedTuple):
  """Options of the solver.

  The options change speed and memory use. They change results only within the tolerance.

  Attributes:
    jacobian: "full" needs n³ operations per step and converges quadratically. "diagonal" uses only
      the diagonals of the Jacobians, needs n operations per step, and takes more iterations. The
      backward pass always uses full Jacobians.
    damping: a number in [0, 1). Jacobians are multiplied by 1 − damping, which stabilizes expanding
      recurrences.
    tolerance: the solver has converged if |rₜ| / max(1, |sₜ|) ≤ tolerance for all elements of the
      residuals r and states s; None for 16 times the machine epsilon.
    max_iterations: maximum number of iterations. If the solver has not converged by then, the steps
      are run one by one.
  """

  jacobian: str = "full"
  damping: float = 0.0
  tolerance: float | None = None
  max_iterations: int = 100


class NewtonInfo(NamedTuple):
  """Information on the convergence of the solver.

  Attributes:
    num_iterations: number of updates of the states.
    residual: the largest |rₜ| / max(1, |sₜ|) after the last iteration, where rₜ is the residual and
      sₜ the state at step t.
    converged: whether the residual is at most the tolerance. If False, the steps were run one by
      one.
  """

  num_iterations: Array
  residual: Array
  converged: Array


def newton(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """Run a cell with `solve` and default options; arguments and results are as for `scan`.

  If the batch is sharded over a mesh, each device solves its own rows.
  """

  def run(params, xs, mask, carry):
    final_carry, ys, _ = solve(cell, params, xs, mask, carry, reverse)
    return final_carry, ys

  return shard_over_batch(run)(params, xs, mask, carry)


def requires_small_jacobians(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Return the reason why the newton backend cannot run a cell; "" if it can.

  The carry must consist of vectors, a step must not mix rows, and the Jacobians of all steps must
  take at most MAX_JACOBIAN_GIB.
  """
  if any(leaf.ndim != xs.ndim - 1 for leaf in jax.tree.leaves(carry)):
    shapes = [leaf.shape for leaf in jax.tree.leaves(carry)]
    return f"it needs a carry of vectors, and that of {cell} is {shapes}; backend='scan' runs it"
  if mixes_rows(cell, params, xs, carry):
    return (
      f"it solves each row independently, and a step of {cell} mixes rows; backend='scan' runs it"
    )
  n = sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
  num_steps = xs.size // max(1, xs.shape[-1])  # of all rows
  GiB = num_steps * n**2 * accumulation_dtype(xs.dtype).itemsize / 2**30
  if GiB <= MAX_JACOBIAN_GIB:
    return requires_floating(cell, params, xs, carry)
  return (
    f"the Jacobians [{n}, {n}] of the carry of {cell} at every step of xs {xs.shape} would take "
    f"{GiB:.1f} GiB, more than {MAX_JACOBIAN_GIB:.0f}; backend='scan' runs it"
  )


def solve(
  cell: Cell,
  params: Params,
  xs: Array,
  mask: Array | None = None,
  carry: Carry | None = None,
  reverse: bool = False,
  options: NewtonOptions = NewtonOptions(),
) -> tuple[Carry, Array, NewtonInfo]:
  """Run all steps of a cell at once with Newton's method.

  If the iterations do not converge, the steps are run one by one. The computation is in float32 or
  wider. Forward-mode differentiation (jvp) is not supported.

  Args:
    cell, params, mask, reverse: as for `rnnjax.backends.scan.scan`.
    xs: inputs [T, ..., D] with T ≥ 1.
    carry: initial carry; `cell.initial_carry` if None.
    options: form of the Jacobians, damping, tolerance and number of iterations.

  Returns:
    The final carry, the outputs ys [T, ..., H], and a `NewtonInfo`.

  Raises:
    ValueError: an option is invalid.
  """
  if (
    options.jacobian not in JACOBIAN_FORMS
    or not 0 <= options.damping < 1
    or options.max_iterations < 0
  ):
    raise ValueError(
      f"jacobian must be one of {JACOBIAN_FORMS}, damping in [0, 1), max_iterations 0 or more; got "
      f"{options}"
    )
  carry = cell.initial_carry(xs[0]) if carry is None else carry

  def widen(tree):
    return jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)

  params, initial_carry = (cast_to_varying(widen(tree), xs) for tree in (params, carry))
  solver = functools.partial(_newton_iterations, cell, options, reverse)
  (final_carry, ys, _), info = solve_with_implicit_vjp(
    solver, cell, reverse, params, widen(xs), mask, initial_carry
  )
  final_carry = jax.tree.map(lambda final, c: final.astype(c.dtype), final_carry, carry)
  return final_carry, ys.astype(xs.dtype), info


def _newton_iterations(cell, options, reverse, params, xs, mask, initial_carry):
  """Return the states s [T, ..., n] after the last iteration, and a `NewtonInfo`."""
  first, scale = flatten_carry(initial_carry), 1 - options.damping
  eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(initial_carry))
  tolerance = 16 * eps if options.tolerance is None else options.tolerance
  # The projected inputs do not depend on the states, so they are computed once, before iterating.
  us = project_steps(cell, params, xs)
  projected_cell = cell._replace(project=lambda params, u: u)

  def linearize(s):
    before = shift_one_step(first, s, reverse)
    after, J = step_jacobians(
      projected_cell, params, us, mask, initial_carry, before, options.jacobian
    )
    r = after - s
    size = jnp.abs(r) / jnp.maximum(1, jnp.abs(s))
    # Replace NaN, because XLA's maximum of thousands of numbers may ignore it on a CPU.
    return s, J, r, jnp.max(jnp.where(jnp.isfinite(size), size, jnp.inf), initial=0.0)

  def continues(state):
    k, *_, residual = state
    return (k < options.max_iterations) & (residual > tolerance) & (residual < jnp.inf)

  def iterate(state):
    k, s, J, r, _ = state
    return k + 1, *linearize(s + parallel_linear_scan(scale * J, r, reverse))

  guess = jnp.broadcast_to(first, (len(xs), *first.shape))
  k, s, _, _, residual = jax.lax.while_loop(continues, iterate, (0, *linearize(guess)))
  return s, NewtonInfo(k, residual, residual <= tolerance)


BACKEND = Backend(newton, requires_small_jacobians)

"""Newton's method over time: all steps of a nonlinear cell at once.

Lim, Zhu, Selfridge & Kasim, Parallelizing Non-Linear Sequential Models over the Sequence Length,
2024 (DEER); Gonzalez, Warrington, Smith & Linderman, Towards Scalable and Stable Parallelization of
Nonlinear RNNs, 2024 (diagonal Jacobians). The carries of all steps are guessed. As long as they do
not follow from one another, the steps are linearised around them, and what is linear in time can
be solved in log₂ T rounds (`rnnjax.backends.linear_scan`):

    rₜ = f(sₜ₋₁, xₜ) − sₜ                     the residual of a guess s₁, ..., s_T
    δₜ = Jₜ δₜ₋₁ + rₜ,   Jₜ = ∂f/∂s(sₜ₋₁)     how wrong it is, to first order
    sₜ ← sₜ + δₜ                              after k times the first k steps are exact

Where it ends, s is what a loop gives, and the way back is the same recurrence once, transposed
(`rnnjax.backends.newton.implicit_diff`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.backends.base import mixes_rows, requires_floating
from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.backends.linear_scan import parallel_linear_scan, shift_one_step
from rnnjax.backends.newton.implicit_diff import solve_with_implicit_vjp
from rnnjax.backends.newton.jacobians import flatten_carry, step_jacobians
from rnnjax.backends.scan import project_steps
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params

JACOBIAN_FORMS = ("full", "diagonal")
MAX_JACOBIAN_GIB = 2.0  # GiB that the Jacobians of all steps may take


class NewtonOptions(NamedTuple):
  """How the steps are solved; this changes time and memory, not results.

  Attributes:
    form: "full" Jacobians, n³ work a step and quadratic convergence, or their "diagonal", n work
      and more iterations. The way back takes full ones.
    damping: in [0, 1): the Jacobians are multiplied by 1 − damping, which tames those that expand.
    tolerance: of |rₜ| / max(1, |sₜ|); None for 16 units of rounding.
    iterations: after so many the steps are taken one by one.
  """

  jacobian: str = "full"
  damping: float = 0.0
  tolerance: float | None = None
  max_iterations: int = 100


class NewtonInfo(NamedTuple):
  """What came of it.

  Attributes:
    iterations: how often all steps were linearised.
    residual: the largest |rₜ| / max(1, |sₜ|) after them.
    converged: whether it is within the tolerance; if not, a loop over time was run instead.
  """

  num_iterations: Array
  residual: Array
  converged: Array


def newton(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, by `solve` as it comes; on a mesh each device solves its own rows."""
  run = lambda *args: solve(cell, *args, reverse)[:2]
  return shard_over_batch(run)(params, xs, mask, carry)


def requires_small_jacobians(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that makes the Jacobian of every step."""
  if any(leaf.ndim != xs.ndim - 1 for leaf in jax.tree.leaves(carry)):
    shapes = [leaf.shape for leaf in jax.tree.leaves(carry)]
    return f"it needs a carry of vectors, and that of {cell} is {shapes}; backend='scan' runs it"
  if mixes_rows(cell, params, xs, carry):
    return f"it solves every row alone, and a step of {cell} mixes rows; backend='scan' runs it"
  n = sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
  GiB = xs.size // max(1, xs.shape[-1]) * n**2 * accumulation_dtype(xs.dtype).itemsize / 2**30
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
  """All steps at once, and how many iterations it took; one after the other if it took too many.

  It computes in float32 at least. Not differentiable in forward mode (jvp): `scan` is.

  Args:
    cell, params, xs, alive, reverse: as for `scan`; xs [T, ..., D], T ≥ 1.
    carry: the first carry; the cell's own where None.
    how: form, damping, tolerance and iterations.

  Returns:
    carry, ys [T, ..., H], found.
  """
  if (
    options.jacobian not in JACOBIAN_FORMS
    or not 0 <= options.damping < 1
    or options.max_iterations < 0
  ):
    raise ValueError(
      f"form must be one of {JACOBIAN_FORMS}, damping in [0, 1), iterations 0 or more; got {options}"
    )
  carry = cell.initial_carry(xs[0]) if carry is None else carry
  high = lambda tree: jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)
  params, start = (cast_to_varying(high(tree), xs) for tree in (params, carry))
  find = functools.partial(_newton_iterations, cell, options, reverse)
  (end, ys, _), found = solve_with_implicit_vjp(find, cell, reverse, params, high(xs), mask, start)
  return jax.tree.map(lambda e, c: e.astype(c.dtype), end, carry), ys.astype(xs.dtype), found


def _newton_iterations(cell, options, reverse, params, xs, mask, initial_carry):
  """s [T, ..., n], and what came of it."""
  first, scale = flatten_carry(initial_carry), 1 - options.damping
  eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(initial_carry))
  tolerance = 16 * eps if options.tolerance is None else options.tolerance
  # What need not be iterated: u is made once, and is its own projection.
  us, fed = project_steps(cell, params, xs), cell._replace(project=lambda params, u: u)

  def at(s):
    before = shift_one_step(first, s, reverse)
    new, J = step_jacobians(fed, params, us, mask, initial_carry, before, options.jacobian)
    r = new - s
    size = jnp.abs(r) / jnp.maximum(1, jnp.abs(s))
    # A maximum may pass NaN by, as XLA's of thousands of numbers does on a CPU.
    return s, J, r, jnp.max(jnp.where(jnp.isfinite(size), size, jnp.inf), initial=0.0)

  def goes_on(state):
    k, *_, residual = state
    return (k < options.max_iterations) & (residual > tolerance) & (residual < jnp.inf)

  def improve(state):
    k, s, J, r, _ = state
    return k + 1, *at(s + parallel_linear_scan(scale * J, r, reverse))

  guess = jnp.broadcast_to(first, (len(xs), *first.shape))
  k, s, _, _, residual = jax.lax.while_loop(goes_on, improve, (0, *at(guess)))
  return s, NewtonInfo(k, residual, residual <= tolerance)

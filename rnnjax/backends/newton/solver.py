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

from rnnjax.backends.base import mixes_rows, unless_floating
from rnnjax.backends.batch_sharding import on_own_rows, varying
from rnnjax.backends.linear_scan import at_once, shifted
from rnnjax.backends.newton.implicit_diff import solved
from rnnjax.backends.newton.jacobians import flat, linearised
from rnnjax.backends.scan import project_steps
from rnnjax.cells.base import Cell, wide
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
  if any(leaf.ndim != xs.ndim - 1 for leaf in jax.tree.leaves(carry)):
    shapes = [leaf.shape for leaf in jax.tree.leaves(carry)]
    return f"it needs a carry of vectors, and that of {cell} is {shapes}; backend='scan' runs it"
  if mixes_rows(cell, params, xs, carry):
    return f"it solves every row alone, and a step of {cell} mixes rows; backend='scan' runs it"
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
  find = functools.partial(_iterated, cell, how, reverse)
  (end, ys, _), found = solved(find, cell, reverse, params, high(xs), alive, start)
  return jax.tree.map(lambda e, c: e.astype(c.dtype), end, carry), ys.astype(xs.dtype), found


def _iterated(cell, how, reverse, params, xs, alive, start):
  """s [T, ..., n], and what came of it."""
  first, scale = flat(start), 1 - how.damping
  eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(start))
  tolerance = 16 * eps if how.tolerance is None else how.tolerance
  # What need not be iterated: u is made once, and is its own projection.
  us, fed = project_steps(cell, params, xs), cell._replace(project=lambda params, u: u)

  def at(s):
    before = shifted(first, s, reverse)
    new, J = linearised(fed, params, us, alive, start, before, how.form)
    r = new - s
    size = jnp.abs(r) / jnp.maximum(1, jnp.abs(s))
    # A maximum may pass NaN by, as XLA's of thousands of numbers does on a CPU.
    return s, J, r, jnp.max(jnp.where(jnp.isfinite(size), size, jnp.inf), initial=0.0)

  def goes_on(state):
    k, *_, residual = state
    return (k < how.iterations) & (residual > tolerance) & (residual < jnp.inf)

  def improve(state):
    k, s, J, r, _ = state
    return k + 1, *at(s + at_once(scale * J, r, reverse))

  guess = jnp.broadcast_to(first, (len(xs), *first.shape))
  k, s, _, _, residual = jax.lax.while_loop(goes_on, improve, (0, *at(guess)))
  return s, Found(k, residual, residual <= tolerance)

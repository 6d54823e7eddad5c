"""What a backend is: a way to run the loop over time, and why it may be of no use."""

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.backends.batch_sharding import batch_axes
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


class Backend(NamedTuple):
  """A way to run the loop over time.

  Attributes:
    run: cell, params, xs, alive, carry, reverse -> carry, ys, as `scan` does.
    refuses: cell, params, xs, carry -> why it cannot run these here, and what can; "" where it can.
    together: cell, nets, xs, alive, carries, reverse -> [(carry, ys)]: the same for several nets of
      one cell at once, each with its parameters, carry and direction; None where they take turns.
  """

  run: Callable[..., tuple[Carry, Array]]
  why_unavailable: Callable[[Cell, Params, Array, Carry], str]
  run_many: Callable[..., list[tuple[Carry, Array]]] | None = None


def kernel_backend(run_many: Callable, why_unavailable: Callable) -> Backend:
  """A backend that runs nets together, one of them alone, too."""

  def run(cell, params, xs, mask, carry, reverse):
    return run_many(cell, (params,), xs, mask, (carry,), (reverse,))[0]

  return Backend(run, why_unavailable, run_many)


def call_outside_trace(f: Callable):
  """f(), as if nothing were traced and no mesh set: what is asked once a process is asked so."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:  # which has no part in either
    return thread.submit(f).result()


def always_available(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that runs any cell anywhere."""
  del cell, params, xs, carry
  return ""


def mixes_rows(cell: Cell, params: Params, xs: Array, carry: Carry) -> bool:
  """Whether an output row of one step depends on the input or carry of another row.

  One step is run on numbers with NaN in the first row: if NaN reaches another row, rows are mixed,
  as by a mean over the batch or a convolution over an axis of xs. Cells made by `additive` and
  `linear` treat every row alone.

  Args:
    cell, params, carry: as for `unroll`; only their shapes are read.
    xs: [T, ..., D].
  """
  if cell.pointwise or cell.coefficients or math.prod(xs.shape[1:-1]) < 2:
    return False
  inputs = params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
  leaves, structure = jax.tree.flatten(inputs)
  return _mixes_rows(cell, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.cache
def _mixes_rows(cell, structure, types):
  """`mixes_rows` for arrays of these shapes and types; computed once for each."""

  def example(shape, dtype):
    if not jnp.issubdtype(dtype, jnp.inexact):
      return np.zeros(shape, dtype)
    return np.random.default_rng(0).uniform(0.1, 0.5, shape).astype(dtype)

  params, carry, x = structure.unflatten([example(*each) for each in types])
  batch = x.shape[:-1]
  first_row = (0,) * len(batch)

  def with_nan(a):
    if a.shape[: len(batch)] != batch or not jnp.issubdtype(a.dtype, jnp.inexact):
      return a
    a = a.copy()
    a[first_row] = np.nan
    return a

  step = jax.jit(lambda carry, x: cell.step(params, carry, cell.project(params, x)))

  def nan_rows():
    plain, probed = step(carry, x), step(*jax.tree.map(with_nan, (carry, x)))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(probed)):
      reached = np.array(np.isnan(b) & ~np.isnan(a))
      if reached.shape[: len(batch)] == batch:
        reached[first_row] = False
      if reached.any():
        return True
    return False

  return call_outside_trace(nan_rows)


def unless_independent(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why a backend that runs the rows on different devices cannot run this cell; "" if it can."""
  if any(batch_axes(xs)) and mixes_rows(cell, params, xs, carry):
    return (
      f"the batch is sharded over devices, each of which runs its own rows, and a step of {cell} "
      "mixes rows; backend='scan' runs it"
    )
  return requires_floating(cell, params, xs, carry)


def requires_floating(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend with a backward pass of its own, which needs what can be differentiated."""
  del xs
  if not all(jnp.issubdtype(p.dtype, jnp.inexact) for p in jax.tree.leaves(params)):
    return f"it needs floating parameters, and not all of {cell} are; backend='scan' runs it"
  types = [str(c.dtype) for c in jax.tree.leaves(carry)]
  if all(jnp.issubdtype(name, jnp.floating) for name in types):
    return ""
  return f"it needs a floating carry, and that of {cell} holds {types}; backend='scan' runs it"

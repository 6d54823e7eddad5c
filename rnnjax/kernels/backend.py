"""What a backend is: a way to run the loop over time, and why it may be of no use."""

import concurrent.futures
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import Cell
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
  refuses: Callable[[Cell, Params, Array, Carry], str]
  together: Callable[..., list[tuple[Carry, Array]]] | None = None


def kernel(together: Callable, refuses: Callable) -> Backend:
  """A backend that runs nets together, one of them alone, too."""

  def run(cell, params, xs, alive, carry, reverse):
    return together(cell, (params,), xs, alive, (carry,), (reverse,))[0]

  return Backend(run, refuses, together)


def aside(f: Callable):
  """f(), as if nothing were traced and no mesh set: what is asked once a process is asked so."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:  # which has no part in either
    return thread.submit(f).result()


def never(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that runs any cell anywhere."""
  del cell, params, xs, carry
  return ""


def unless_floating(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend with a backward pass of its own, which needs what can be differentiated."""
  del xs
  if not all(jnp.issubdtype(p.dtype, jnp.inexact) for p in jax.tree.leaves(params)):
    return f"it needs floating parameters, and not all of {cell} are; backend='scan' runs it"
  types = [str(c.dtype) for c in jax.tree.leaves(carry)]
  if all(jnp.issubdtype(name, jnp.floating) for name in types):
    return ""
  return f"it needs a floating carry, and that of {cell} holds {types}; backend='scan' runs it"

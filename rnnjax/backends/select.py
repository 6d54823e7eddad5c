"""Registry of the backends, and selection of the fastest one.

A backend's module is imported when the backend is first used, so that `import rnnjax` and a loop on
a CPU load neither Pallas nor solvers.
"""

import math
from collections.abc import Callable

import jax
import jax.export

from rnnjax.backends.interface import Backend
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Params


def _load_scan():
  from rnnjax.backends.scan import BACKEND

  return BACKEND


def _load_deferred():
  from rnnjax.backends.deferred import BACKEND

  return BACKEND


def _load_associative():
  from rnnjax.backends.associative import BACKEND

  return BACKEND


def _load_newton():
  from rnnjax.backends.newton.solver import BACKEND

  return BACKEND


def _load_triton():
  from rnnjax.backends.pallas.triton_tiling import BACKEND

  return BACKEND


def _load_mosaic():
  from rnnjax.backends.pallas.mosaic_tiling import BACKEND

  return BACKEND


BACKENDS: dict[str, Callable[[], Backend]] = {
  "scan": _load_scan,
  "deferred": _load_deferred,
  "associative": _load_associative,
  "newton": _load_newton,
  "triton": _load_triton,
  "mosaic": _load_mosaic,
}


def select_backend(
  cell: Cell, params: Params, xs: Array, is_available: Callable[[str], bool]
) -> str:
  """Return the name of the backend that was measured to be fastest for a cell and xs.

  A backend that was not measured is not selected: `mosaic`, and `associative` on accelerators. The
  measurements are in the README of this folder.

  Args:
    cell: the recurrent cell.
    params: its parameters.
    xs: inputs [T, ..., D].
    is_available: name -> whether the backend can run this. It is called only for backends that
      could be fastest here, since it imports them.
  """
  if any(map(jax.export.is_symbolic_dim, xs.shape)):
    return "scan"  # Sizes are unknown in an export, so the reference is used.
  device = jax.default_backend()
  # On a CPU a scan over all steps pays only while one step is a few numbers; a larger one falls out
  # of the cache.
  is_small = math.prod(xs.shape[1:-1]) * cell.features <= 16
  if device == "cpu" and is_small and cell.coefficients and is_available("associative"):
    return "associative"
  if device == "gpu" and is_available("triton"):
    from rnnjax.backends.pallas.triton_tiling import num_waves

    # The kernel takes 0.3 to 0.7 of the time of `deferred` while its programs fill the GPU about
    # once; each further wave of programs takes as long again.
    if num_waves(cell, params, xs) <= 2:
      return "triton"
  return "deferred" if is_available("deferred") else "scan"

"""Registry of the backends, and selection of the fastest one.

A backend's module is imported when the backend is first used. So `import rnnjax` does not import
Pallas.
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
  """Return the name of the backend that is expected to be fastest for a cell and xs.

  The choice is based on the measurements in the README of this folder. `mosaic` has not been
  measured, so it is never selected. `associative` has been measured only on a CPU, so it is
  selected only on a CPU.

  Args:
    cell: the recurrent cell.
    params: parameters of the cell.
    xs: inputs [T, ..., D].
    is_available: backend name -> whether the backend can run the cell. It imports the backend, so
      it is called only for backends that could be the fastest.
  """
  if any(map(jax.export.is_symbolic_dim, xs.shape)):
    return "scan"  # The sizes are symbolic in an export, so the reference backend is used.
  device = jax.default_backend()
  # On a CPU the associative scan is faster only if a step has few numbers. The arrays of larger
  # steps do not fit in the cache.
  is_small = math.prod(xs.shape[1:-1]) * cell.features <= 16
  if device == "cpu" and is_small and cell.coefficients and is_available("associative"):
    return "associative"
  if device == "gpu" and is_available("triton"):
    from rnnjax.backends.pallas.triton_tiling import num_waves

    # If all programs of the kernel fit on the GPU at once (one wave), the kernel takes 0.3 to 0.7
    # of the time of `deferred`. Each further wave takes the same time again.
    if num_waves(cell, params, xs) <= 2:
      return "triton"
  return "deferred" if is_available("deferred") else "scan"

"""How the loop is best run: by which backend, and what is saved for the way back."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.export

from rnnjax.backends import malloc
from rnnjax.backends.pallas import triton_tiling
from rnnjax.backends.scan import project_steps
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Params


class DeferredOptions(NamedTuple):
  """The choices of `deferred`; they change its time and memory, not its results.

  Attributes:
    save: the gates of every step are saved; else computed again on the way back, those of a chunk
      in one product. The carry of every step is saved in any case.
    chunk: after how many steps back the weight gradients are taken; None for all at once. T must
      be a multiple of it.
    hoist: the inputs of all steps are projected before the loop, in one product; else each in it.
    join: what a cell of the form of `additive` puts out for h U on the way back is joined to one
      row; else it is written into that row block by block.
    unroll: the steps that are one turn of a loop.
  """

  save_gates: bool = True
  chunk_size: int | None = None
  precompute_inputs: bool = False
  concat_gates: bool = False
  unroll: int = 1


def choose_options(cell: Cell, params: Params, xs: Array) -> DeferredOptions:
  """What measurements recommend for xs [T, ..., D], the rows of one device.

  On a CPU (LSTM and GRU, forward and backward, one and two devices):
  - The products after the loop are as fast over 512 rows as over more, and their operands are then
    still in the cache.
  - Projecting inputs in the loop takes 0.4 to 0.9 of the time of projecting all, or a chunk,
    before it.
  - Computing gates again takes 0.97 to 1.2 of the time of saving them, at (B, T, D, H) = (32, 600,
    32, 100), (32, 250, 35, 128), (16, 600, 128, 128), (64, 100, 512, 512). But where they would
    take more than 20 MiB, no `pages` are kept, so that memory is fresh from the system at every
    call, and D + H is small, it takes 0.75 to 0.95.

  An accelerator has memory, and pays for each launch: there as much as can be is done at once. On
  an H100 (T = 512, forward and backward, ms; GRU at (B, H) = (256, 1024), (64, 1024), LSTM at (256,
  512)) all this takes 47.5, 20.8, 24.2; without `join` 53.5, 26.0, 27.2; of eight steps a turn
  46.9, 21.2, 23.9. With neither the GRUs take 57.2 and 29.4, joined alone 54.4 and 27.6; gates
  computed again, in turns of two steps, 48.5 and 22.4 against 48.1 and 22.9.
  """
  if jax.default_backend() != "cpu":
    return DeferredOptions(precompute_inputs=True, concat_gates=True, unroll=4)
  T, D = xs.shape[0], xs.shape[-1]
  rows = math.prod(xs.shape[1:-1])
  chunk = next((k for k in range(1, T) if k * rows >= 512 and T % k == 0), None)
  us = jax.tree.leaves(jax.eval_shape(functools.partial(project_steps, cell), params, xs))
  size = sum(u.size * u.dtype.itemsize for u in us)
  save = malloc.malloc_tuned or D + cell.features > 256 or size < 20 * 2**20
  return DeferredOptions(save_gates=save, chunk_size=chunk)


def select_backend(
  cell: Cell, params: Params, xs: Array, is_available: Callable[[str], bool]
) -> str:
  """Which of the backends that are able to run this was measured to be the fastest.

  What was not measured is not chosen: `mosaic`, and on accelerators all steps at once.

  On a CPU (2 cores; forward and backward, ms) the loop has little to do where a step is a few
  numbers, and waits; where it is more, a tree of all steps falls out of the cache:

      B, T, D, H           minGRU               minLSTM              LRU
      1, 10000, 8, 8       5 → associative 3    20 → associative 4   14 → associative 6
      1, 1000, 8, 32       0.6 → 0.9            3 → 1.5              2.3 → 1.6
      1, 10000, 64, 128    37 → 108             125 → 162            176 → 403
      32, 200, 128, 128    25 → 53              87 → 107             72 → 192

  On an H100 the kernel of `triton` takes 0.3 to 0.7 of the time of `deferred` up to H = 256 and, at
  B = 64, 512, where its programs fill the chip about once; each time more takes as long again.
  `cudnn` takes 1.1 to 7 times as long as the faster of the two (T = 512; B = 64 and 256, H = 128 to
  1024).

  Of sizes that are symbols, as in an export, nothing was measured: it is the reference that runs.
  """
  if any(map(jax.export.is_symbolic_dim, xs.shape)):
    return "scan"
  few = math.prod(xs.shape[1:-1]) * cell.features <= 16
  if few and jax.default_backend() == "cpu" and is_available("associative"):
    return "associative"
  if is_available("triton") and triton_tiling.num_waves(cell, params, xs) <= 2:
    return "triton"
  return "deferred" if is_available("deferred") else "scan"

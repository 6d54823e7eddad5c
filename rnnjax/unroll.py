"""The loop over time: a cell unrolled over a sequence, fed by data."""

import functools

import jax
import jax.numpy as jnp

from experiments.benchmarks import cudnn
from rnnjax.backends.associative import associative, requires_linear
from rnnjax.backends.base import Backend, always_available, kernel_backend, unless_independent
from rnnjax.backends.batch_sharding import cast_to_varying
from rnnjax.backends.deferred import deferred
from rnnjax.backends.newton.solver import newton, requires_small_jacobians
from rnnjax.backends.pallas import mosaic_tiling, triton_tiling
from rnnjax.backends.pallas.fused import run_fused
from rnnjax.backends.scan import scan, with_accumulation_dtype
from rnnjax.backends.select import select_backend
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Carry, InvalidInputError, Params

BACKENDS = {
  "scan": Backend(scan, always_available),
  "deferred": Backend(deferred, unless_independent),
  "associative": Backend(associative, requires_linear),
  "newton": Backend(newton, requires_small_jacobians),
  "triton": kernel_backend(
    functools.partial(run_fused, triton_tiling.device_triton_spec), triton_tiling.why_unavailable
  ),
  "mosaic": kernel_backend(
    functools.partial(run_fused, mosaic_tiling.device_mosaic_spec), mosaic_tiling.why_unavailable
  ),
  "cudnn": Backend(cudnn.cudnn, cudnn.why_unavailable),
}


def unroll(
  cell: Cell,
  params: Params,
  xs: Array,
  lengths: Array | None = None,
  *,
  carry: Carry | None = None,
  reverse: bool = False,
  remat: int | None = None,
  backend: str = "auto",
) -> tuple[Carry, Array]:
  """Unrolls a cell over a sequence.

      carryₜ, yₜ = step(params, carryₜ₋₁, project(params, xₜ))          t < length
      carryₜ, yₜ = carryₜ₋₁, 0                                          t ≥ length

  So the carry returned is that at each row's own end, and what stands past it, NaN even, changes
  neither outputs nor gradients. It computes in the type of xs: bfloat16 inputs with float32
  parameters give bfloat16 outputs. Truncated backpropagation through time is
  `carry=jax.lax.stop_gradient(carry)`; streaming is `unroll(xs[a:b], carry=carry)`. Forward-mode
  differentiation (jvp) needs backend="scan".

  Args:
    cell: what to unroll.
    params: its parameters.
    xs: [T, ..., D], floating; any number of batch axes.
    lengths: [...], integer steps of each row; None where all have T. If xs has further axes that
      the cell treats as space, such as [T, B, X, Y, D], lengths [B] are enough.
    carry: the first carry; the cell's own where None.
    reverse: from the last step to the first; a row then starts at its own last step.
    remat: keep only every remat-th carry for the backward pass and compute the rest again; None
      keeps all.
    backend: how the loop is run, one of `BACKENDS`; "auto" takes what was measured to be fastest
      of those that can run it (`rnnjax.backends.select`).

  Returns:
    carry, ys [T, ..., H].

  Raises:
    TypeError: xs is not floating.
    ValueError: lengths, carry, remat or backend do not fit, or the backend cannot run this here,
      with the reason; T = 0 is allowed.
  """
  (params,), xs, mask, (carry,), backend = _prepare_inputs(
    cell, (params,), xs, lengths, (carry,), backend
  )
  run = functools.partial(BACKENDS[backend].run, cell)
  return _unroll_with_remat(run, params, xs, mask, carry, reverse, remat)


def unroll_bidirectional(
  cell: Cell,
  params: tuple[Params, Params],
  xs: Array,
  lengths: Array | None = None,
  *,
  carries: tuple[Carry | None, Carry | None] = (None, None),
  remat: int | None = None,
  backend: str = "auto",
) -> list[tuple[Carry, Array]]:
  """A cell with one set of parameters unrolled forward, and with another in reverse.

  As two calls of `unroll` with these parameters and carries, but in one launch where the backend
  can do that.

  Returns:
    [(carry, ys), (carry, ys)].

  Raises:
    As `unroll`.
  """
  ready = _prepare_inputs(cell, tuple(params), xs, lengths, carries, backend)
  nets, xs, mask, carries, backend = ready
  reverse = False, True
  if remat is None and BACKENDS[backend].run_many:
    return BACKENDS[backend].run_many(cell, nets, xs, mask, carries, reverse)
  run = functools.partial(BACKENDS[backend].run, cell)
  return [
    _unroll_with_remat(run, net, xs, mask, carry, back, remat)
    for net, carry, back in zip(nets, carries, reverse)
  ]


def _prepare_inputs(cell, param_sets, xs, lengths, carries, backend):
  """What is unrolled, checked: in the type of xs, dead steps masked; and by which backend."""
  xs = jnp.asarray(xs)
  if not jnp.issubdtype(xs.dtype, jnp.floating):
    raise TypeError(
      f"xs must be floating, [T, *batch, D]; got {xs.dtype} {xs.shape}. "
      "Are these token ids that have not been embedded?"
    )
  if xs.ndim < 2:
    raise ValueError(f"xs must be [T, *batch, D], at least two axes; got shape {xs.shape}")
  if backend != "auto" and backend not in BACKENDS:
    raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}; got {backend!r}")
  # What a linear cell's coefficients read must not be rounded: its products cast by themselves.
  kind = accumulation_dtype(xs.dtype) if cell.coefficients else xs.dtype
  cast = lambda p: p.astype(kind) if jnp.issubdtype(p.dtype, jnp.floating) else p
  param_sets = jax.tree.map(cast, jax.tree.map(jnp.asarray, param_sets))

  mask = None
  if lengths is not None:
    mask = padding_mask(xs, lengths)
    xs = jnp.where(mask[..., None], xs, 0)

  start, given = cell.initial_carry(first_input(xs)), carries
  carries = tuple(
    start if carry is None else _validate_carry(cell, start, carry) for carry in given
  )
  carries = cast_to_varying(carries, xs, *jax.tree.leaves(param_sets))
  if 0 in xs.shape[:-1]:
    return param_sets, xs, mask, carries, "scan"
  if backend == "auto":
    able = lambda name: not BACKENDS[name].why_unavailable(cell, param_sets[0], xs, start)
    backend = select_backend(cell, param_sets[0], xs, able)
  elif why := BACKENDS[backend].why_unavailable(cell, param_sets[0], xs, start):
    raise InvalidInputError(f"backend={backend!r} cannot run this: {why}")
  for net in param_sets:
    _check_step(cell, net, start, xs[0])
  return param_sets, xs, mask, carries, backend


def backend_status(
  cell: Cell, params: Params, xs: Array, carry: Carry | None = None
) -> dict[str, str]:
  """Why each backend cannot unroll a cell over xs on this machine; "" for those that can.

  Args:
    cell, params, xs, carry: as for `unroll`.
  """
  carry = cell.initial_carry(first_input(xs)) if carry is None else carry
  return {name: each.why_unavailable(cell, params, xs, carry) for name, each in BACKENDS.items()}


def first_input(xs: Array) -> Array:
  """x₁ [..., D], from which a carry is derived; zeros where T = 0."""
  return xs[0] if xs.shape[0] else xs.sum(0)


def _unroll_with_remat(run, params, xs, mask, carry, reverse, remat):
  """Runs chunks of remat steps, of which only the carries between them are kept."""
  T = xs.shape[0]
  if remat is not None and not (isinstance(remat, int) and remat > 0):
    raise ValueError(f"remat must be a positive number of steps; got {remat}")
  if remat is None or remat >= T:
    return run(params, xs, mask, carry, reverse)
  pad = -T % remat
  if pad and mask is None:
    mask = padding_mask(xs, None)
  # Padded steps are dead: the carry passes them unchanged, at either end.
  grow = lambda a: jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1))
  chunk = lambda a: grow(a).reshape(-1, remat, *a.shape[1:])
  params, narrow = with_accumulation_dtype(params)
  body = jax.checkpoint(lambda carry, inputs: run(narrow(params), *inputs, carry, reverse))
  carry, ys = jax.lax.scan(body, carry, jax.tree.map(chunk, (xs, mask)), reverse=reverse)
  return carry, ys.reshape(-1, *ys.shape[2:])[:T]


def _validate_carry(cell, initial_carry, carry):
  """A carry that was given, in the types of the cell's own, whose shapes it must have."""
  expected, got = (jax.tree.map(jnp.shape, c) for c in (initial_carry, carry))
  if expected != got:
    raise ValueError(
      f"carry must have the structure and shapes {expected}, as {cell}.start makes them for this "
      f"batch; got {got}. Was it made for another batch size or another cell?"
    )
  return jax.tree.map(lambda c, s: jnp.asarray(c, s.dtype), carry, initial_carry)


def _check_step(cell, params, carry, x):
  """A step must return the carry it got: same structure, shapes and types."""
  describe = lambda tree: jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)
  before = describe(carry)
  after, y = jax.eval_shape(lambda: cell.step(params, carry, cell.project(params, x)))
  if before != describe(after):
    raise ValueError(
      f"the step of {cell} must return the carry it got, of the same structure, shapes and "
      f"types: it got {before} and returned {describe(after)}"
    )
  if y.shape != (*x.shape[:-1], cell.features):
    raise ValueError(
      f"the step of {cell} must return y of shape {(*x.shape[:-1], cell.features)}, its batch "
      f"and its {cell.features} features; got {y.shape}"
    )

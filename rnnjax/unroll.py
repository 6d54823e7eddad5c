"""The loop over time: a recurrent cell unrolled over a sequence."""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import cast_to_varying, with_accumulation_dtype
from rnnjax.backends.select import BACKENDS, select_backend
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Carry, InvalidInputError, Params


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
  """Run a recurrent cell over a sequence.

      carryₜ, yₜ = step(params, carryₜ₋₁, project(params, xₜ))          t < length
      carryₜ, yₜ = carryₜ₋₁, 0                                          t ≥ length (padding)

  The final carry of each row is its carry after its last valid step. Padding affects neither
  outputs nor gradients, even if it is NaN.

  The computation has the dtype of xs: bfloat16 inputs with float32 parameters give bfloat16
  outputs. For truncated backpropagation through time pass `carry=jax.lax.stop_gradient(carry)`. For
  streaming call `unroll(cell, params, xs[a:b], carry=carry)`. Forward-mode differentiation (jvp)
  needs backend="scan".

  Args:
    cell: the recurrent cell.
    params: parameters of the cell, as returned by `cell.init`.
    xs: inputs [T, ..., D], floating point; any number of batch axes.
    lengths: valid steps of each row [...], integer; None if every row has T. If xs also has spatial
      axes, such as [T, B, X, Y, D], lengths may have the shape [B].
    carry: initial carry; `cell.initial_carry` if None.
    reverse: run from the last step to the first; each row then starts at its last valid step.
    remat: save only every remat-th carry for the backward pass and recompute the other carries;
      None saves every carry.
    backend: implementation of the loop, a key of `BACKENDS`; "auto" selects an available backend by
      measured speed (`rnnjax.backends.select`).

  Returns:
    The final carry and the outputs ys [T, ..., H].

  Raises:
    TypeError: xs is not floating point.
    ValueError: xs, lengths, carry, remat or backend is invalid, or the cell's step returns wrong
      shapes or dtypes.
    InvalidInputError: the backend cannot run this cell on this device; the message has the reason.
  """
  (params,), xs, mask, (carry,), backend = _prepare_inputs(
    cell, (params,), xs, lengths, (carry,), backend
  )
  run = functools.partial(BACKENDS[backend]().run, cell)
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
  """Run a cell forward and in reverse, with a separate parameter set for each direction.

  The results are equal to the results of two calls of `unroll`. If `remat` is None, a kernel
  backend runs both directions in one launch.

  Args:
    cell: the recurrent cell of both directions.
    params: (forward parameters, reverse parameters).
    xs, lengths, remat, backend: as for `unroll`.
    carries: (forward initial carry, reverse initial carry); None means `cell.initial_carry`.

  Returns:
    [(carry, ys), (carry, ys)], first for the forward direction, then for the reverse direction.

  Raises:
    TypeError, ValueError, InvalidInputError: as for `unroll`.
  """
  param_sets, xs, mask, carries, backend = _prepare_inputs(
    cell, tuple(params), xs, lengths, carries, backend
  )
  directions = False, True
  implementation = BACKENDS[backend]()
  if remat is None and implementation.run_many:
    return implementation.run_many(cell, param_sets, xs, mask, carries, directions)
  run = functools.partial(implementation.run, cell)
  return [
    _unroll_with_remat(run, params, xs, mask, carry, reverse, remat)
    for params, carry, reverse in zip(param_sets, carries, directions)
  ]


def backend_status(
  cell: Cell, params: Params, xs: Array, carry: Carry | None = None
) -> dict[str, str]:
  """Return a dict that maps each backend's name to the reason why the backend is unavailable.

  The reason is "" if the backend can unroll the cell over xs on this device.

  Args:
    cell, params, xs, carry: as for `unroll`.
  """
  carry = cell.initial_carry(first_input(xs)) if carry is None else carry
  return {name: load().why_unavailable(cell, params, xs, carry) for name, load in BACKENDS.items()}


def first_input(xs: Array) -> Array:
  """Return xs[0] [..., D], the argument of `cell.initial_carry`; zeros if xs has no steps."""
  return xs[0] if xs.shape[0] else xs.sum(0)


def _prepare_inputs(cell, param_sets, xs, lengths, carries, backend):
  """Validate and cast the inputs, set the padding of xs to 0, and select the backend.

  Returns:
    The cast param_sets, xs and carries, the padding mask, and the name of the backend:
    (param_sets, xs, mask, carries, backend).

  Raises:
    TypeError, ValueError, InvalidInputError: as for `unroll`.
  """
  xs = jnp.asarray(xs)
  if not jnp.issubdtype(xs.dtype, jnp.floating):
    raise TypeError(
      f"xs must be floating point, [T, *batch, D]; got {xs.dtype} {xs.shape}. "
      "Are these token ids that have not been embedded?"
    )
  if xs.ndim < 2:
    raise ValueError(f"xs must be [T, *batch, D], at least two axes; got shape {xs.shape}")
  if backend != "auto" and backend not in BACKENDS:
    raise ValueError(f"backend must be 'auto' or one of {sorted(BACKENDS)}; got {backend!r}")

  # The coefficients of a linear cell are computed from unrounded parameters. The projection of a
  # linear cell casts the parameters itself.
  dtype = accumulation_dtype(xs.dtype) if cell.coefficients else xs.dtype

  def cast_param(p):
    p = jnp.asarray(p)
    return p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p

  param_sets = jax.tree.map(cast_param, param_sets)

  mask = None
  if lengths is not None:
    mask = padding_mask(xs, lengths)
    # NaN in the padding would reach gradients: 0 · NaN is NaN.
    xs = jnp.where(mask[..., None], xs, 0)

  initial_carry = cell.initial_carry(first_input(xs))
  carries = tuple(
    initial_carry if carry is None else _validate_carry(cell, initial_carry, carry)
    for carry in carries
  )
  carries = cast_to_varying(carries, xs, *jax.tree.leaves(param_sets))
  if 0 in xs.shape[:-1]:  # There are no steps or no rows, so the reference backend is enough.
    return param_sets, xs, mask, carries, "scan"

  def why_unavailable(name):
    return BACKENDS[name]().why_unavailable(cell, param_sets[0], xs, initial_carry)

  if backend == "auto":
    backend = select_backend(cell, param_sets[0], xs, lambda name: not why_unavailable(name))
  elif reason := why_unavailable(backend):
    raise InvalidInputError(f"backend={backend!r} cannot run this: {reason}")
  for params in param_sets:
    _check_step(cell, params, initial_carry, xs[0])
  return param_sets, xs, mask, carries, backend


def _validate_carry(cell, initial_carry, carry):
  """Return `carry` in the dtypes of `initial_carry`; raise ValueError if the shapes differ."""
  expected, actual = (jax.tree.map(jnp.shape, tree) for tree in (initial_carry, carry))
  if expected != actual:
    raise ValueError(
      f"carry must have the structure and shapes {expected} of {cell}.initial_carry for this "
      f"batch; got {actual}. Was it made for another batch size or another cell?"
    )
  return jax.tree.map(lambda c, start: jnp.asarray(c, start.dtype), carry, initial_carry)


def _check_step(cell, params, carry, x):
  """Raise ValueError if the step changes the carry's shapes or dtypes, or y is not [..., H]."""

  def describe(tree):
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)

  def project_and_step():
    return cell.step(params, carry, cell.project(params, x))

  expected = describe(carry)
  new_carry, y = jax.eval_shape(project_and_step)
  if expected != describe(new_carry):
    raise ValueError(
      f"the step of {cell} must return a carry of the structure, shapes and dtypes of its input: "
      f"it got {expected} and returned {describe(new_carry)}"
    )
  if y.shape != (*x.shape[:-1], cell.features):
    raise ValueError(
      f"the step of {cell} must return y of shape {(*x.shape[:-1], cell.features)}, its batch "
      f"and its {cell.features} features; got {y.shape}"
    )


def _unroll_with_remat(run, params, xs, mask, carry, reverse, remat):
  """Call `run` on chunks of `remat` steps, and save only the carry before each chunk.

  The backward pass recomputes all other carries. If `remat` is None, `run` is called once, on all
  steps.

  Raises:
    ValueError: remat is not None and not a positive integer.
  """
  T = xs.shape[0]
  if remat is not None and not (isinstance(remat, int) and remat > 0):
    raise ValueError(f"remat must be a positive number of steps; got {remat}")
  if remat is None or remat >= T:
    return run(params, xs, mask, carry, reverse)

  # If T is not a multiple of `remat`, the last chunk is padded. Padded steps are masked, so they
  # return the carry unchanged in both directions.
  padding = -T % remat
  if padding and mask is None:
    mask = padding_mask(xs, None)

  def split_into_chunks(a):
    padded = jnp.pad(a, [(0, padding)] + [(0, 0)] * (a.ndim - 1))
    return padded.reshape(-1, remat, *a.shape[1:])

  params, narrow = with_accumulation_dtype(params)

  @jax.checkpoint
  def run_chunk(carry, chunk):
    chunk_xs, chunk_mask = chunk
    return run(narrow(params), chunk_xs, chunk_mask, carry, reverse)

  chunks = jax.tree.map(split_into_chunks, (xs, mask))
  carry, ys = jax.lax.scan(run_chunk, carry, chunks, reverse=reverse)
  return carry, ys.reshape(-1, *ys.shape[2:])[:T]

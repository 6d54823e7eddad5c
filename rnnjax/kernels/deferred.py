"""Backpropagation through time that defers the weights.

The gradient of the carry must wait for time; that of the weights need not. So the backward loop
only carries dh back, and the weight gradients come after it, in products over many steps at once:

    dzₜ = ∂L/∂zₜ                 in the loop, for it needs dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after it, one product [H, TB] [TB, GH] instead of T small ones
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import Cell, gates, wide
from rnnjax.kernels.plan import Plan, plan
from rnnjax.kernels.rows import on_own_rows, varying
from rnnjax.kernels.scan import freeze
from rnnjax.types import Array, Carry, Params


def deferred(
  cell: Cell,
  params: Params,
  xs: Array,
  alive: Array | None,
  carry: Carry,
  reverse: bool,
  how: Plan | None = None,
) -> tuple[Carry, Array]:
  """As `scan`, for any cell, with the weight gradients in products after the backward loop.

  Not differentiable in forward mode (jvp): `scan` is. Where the batch is cut along a mesh each
  device runs the loop over its own rows, and they meet once, to add up the weight gradients.

  Args:
    cell, params, xs, alive, carry, reverse: as for `scan`.
    how: what is saved and in what chunks; what `plan` finds best where it is None.
  """

  def run(params, xs, alive, carry):
    params, carry = (varying(tree, xs) for tree in (params, carry))
    return _run(cell, how or plan(cell, params, xs), reverse, params, xs, alive, carry)

  return on_own_rows(run)(params, xs, alive, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(cell, how, reverse, params, xs, alive, carry):
  return _forward(cell, how, reverse, params, xs, alive, carry)[0]


def _forward(cell, how, reverse, params, xs, alive, carry):
  """The loop, and what the way back needs: each step's carry, and the gates where saved."""
  feed, project = xs, functools.partial(cell.project, params)
  if how.hoist:
    feed, project = project(xs), lambda u: u

  def tick(carry, inputs):
    x, alive = inputs
    u, z = project(x), None
    if cell.pointwise:
      z = _gates(cell, params, u, carry[0])
      new, y = cell.pointwise(params, carry, z)
    else:
      new, y = cell.step(params, carry, u)
    saved = z if how.save else None
    return freeze(alive, new, carry), (freeze(alive, y, jnp.zeros_like(y)), carry, saved)

  end, (ys, before, zs) = jax.lax.scan(tick, carry, (feed, alive), reverse=reverse)
  return (end, ys), (params, (xs, alive, before, zs))


def _backward(cell, how, reverse, saved, cotangents):
  """Chunk by chunk: the loop back, then the weights' share of these steps."""
  params, steps = saved
  dcarry, dys = cotangents
  T, K = dys.shape[0], how.chunk or dys.shape[0]
  back = (_back_pointwise if cell.pointwise else _back_any)(cell, params, reverse, K)

  def chunk(carry, first):
    dcarry, dparams = carry
    try:
      dcarry, new, dxs = back(first, dcarry, *steps, dys)
    except Exception as error:
      error.add_note(f"This happened when one step of {cell} was differentiated.")
      raise
    return (dcarry, _add(dparams, new)), dxs

  zero = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
  first = jnp.arange(0, T, K)
  (dcarry, dparams), dxs = jax.lax.scan(chunk, (dcarry, zero), first, reverse=not reverse)
  dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, params)
  return dparams, dxs.reshape(T, *dxs.shape[2:]), None, dcarry


_run.defvjp(_forward, _backward)


def _gates(cell, params, u, h):
  return gates(u, h @ params["U"], _number(cell, params), cell.apart)


def _number(cell, params):
  return params["b"].shape[0] // cell.features


def _flat(a):
  """All steps and rows as one axis: XLA multiplies matrices faster than it contracts two axes."""
  return a.reshape(-1, a.shape[-1])


def _add(*trees):
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def _split(alive, dcarry, dy):
  """Cotangents of a step: those that pass through it, and those that pass a dead row by."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  live = freeze(alive, (dcarry, dy), zero((dcarry, dy)))
  return live, zero(dcarry) if alive is None else freeze(alive, zero(dcarry), dcarry)


def _at(steps, t):
  """What was saved at step t; a chunk is not cut out first, for that would copy it."""
  return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), steps)


def _back_pointwise(cell, params, reverse, K):
  """K steps back through a cell of the form of `additive`.

  In the loop dz is written block by block into the rows that the products read, dh's at once and
  the weights' after it; joining blocks by concatenation is slow on a CPU.
  """
  G, H, apart = _number(cell, params), cell.features, cell.apart
  small = {name: p for name, p in params.items() if name not in ("W", "U", "b")}
  UT = params["U"].T

  def back(first, dcarry, xs, alive, before, zs, dys):
    x, h = (jax.lax.dynamic_slice_in_dim(a, first, K) for a in (xs, before[0]))
    rows, x, h = h.shape[:-1], _flat(x), _flat(h)
    z = None
    if zs is None:
      z = [a.reshape(*rows, H) for a in _gates(cell, params, cell.project(params, x), h)]

    def tick(carry, inputs):
      dcarry, dsmall, du, dv = carry
      k, z = inputs
      dy, alive_k, carry_k, z_k = _at((dys, alive, before, zs), first + k)
      live, passing = _split(alive_k, dcarry, dy)
      _, vjp = jax.vjp(cell.pointwise, small, carry_k, z_k or z)
      dparams, (dh, *rest), dz = vjp(live)
      us, vs = dz[:G], dz[: G - apart] + dz[G:]
      du, dv = _write(du, us, k), _write(dv, vs, k) if apart else None
      dh = dh + _at(dv if apart else du, k) @ UT
      return (_add((dh, *rest), passing), _add(dsmall, dparams), du, dv), None

    du = jnp.zeros_like(before[0], xs.dtype, shape=(*rows, G * H))
    dsmall = jax.tree.map(jnp.zeros_like, small)
    start = dcarry, dsmall, du, du if apart else None
    end, _ = jax.lax.scan(tick, start, (jnp.arange(K), z), reverse=not reverse)
    dcarry, dsmall, du, dv = end
    du, dv = _flat(du), _flat(dv if apart else du)
    product = functools.partial(jnp.matmul, preferred_element_type=wide(x.dtype))
    dparams = {"W": product(x.T, du), "U": product(h.T, dv), "b": du.sum(0, wide(x.dtype))}
    return dcarry, dparams | dsmall, (du @ params["W"].T).reshape(*rows, -1)

  return back


def _write(rows, blocks, k):
  """rows [K, ..., GH] with the blocks, each [..., H], side by side in row k."""
  H = blocks[0].shape[-1]
  for i, block in enumerate(blocks):
    at = (k, *[0] * (block.ndim - 1), i * H)
    rows = jax.lax.dynamic_update_slice(rows, block[None], at)
  return rows


def _back_any(cell, params, reverse, K):
  """K steps back through any cell: its step's own vjp, for the carry now, for the rest later."""

  def back(first, dcarry, xs, alive, before, zs, dys):
    del zs
    window = lambda a: jax.lax.dynamic_slice_in_dim(a, first, K)
    flat = functools.partial(jax.tree.map, _flat)
    us, project = jax.vjp(cell.project, params, _flat(window(xs)))
    rows = (K, *xs.shape[1:-1])

    def tick(dcarry, inputs):
      k, u = inputs
      dy, alive_k, carry_k = _at((dys, alive, before), first + k)
      live, passing = _split(alive_k, dcarry, dy)
      _, vjp = jax.vjp(lambda carry: cell.step(params, carry, u), carry_k)
      return _add(vjp(live)[0], passing), live

    inputs = jnp.arange(K), us.reshape(*rows, -1)
    dcarry, lives = jax.lax.scan(tick, dcarry, inputs, reverse=not reverse)
    carries = flat(jax.tree.map(window, before))
    steps = lambda params, us: cell.step(params, carries, us)
    dparams, dus = jax.vjp(steps, params, us)[1](flat(lives))
    dprojected, dxs = project(dus)
    return dcarry, _add(dparams, dprojected), dxs.reshape(*rows, -1)

  return back

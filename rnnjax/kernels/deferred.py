"""Backpropagation through time that defers the weights.

The gradient of the carry must wait for time; that of the weights need not. So the backward loop
only carries dh back, and all weight gradients come after it, in products over all steps at once:

    dzₜ = ∂L/∂zₜ                 in the loop, for it needs dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after it, one product [H, TB] [TB, GH] instead of T small ones
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import Cell, gates
from rnnjax.kernels.scan import freeze
from rnnjax.types import Array, Carry, Params


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def deferred(
  cell: Cell, params: Params, xs: Array, alive: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, for any cell, with the weight gradients in one product after the backward loop.

  Not differentiable in forward mode (jvp): `scan` is.
  """
  return _forward(cell, params, xs, alive, carry, reverse)[0]


def _forward(cell, params, xs, alive, carry, reverse):
  """The loop, and what the way back needs: each step's carry, and the gates where it has them."""

  def tick(carry, inputs):
    x, alive = inputs
    u, z = cell.project(params, x), None
    if cell.pointwise:
      z = gates(u, carry[0] @ params["U"], _number(cell, params), cell.apart)
      new, y = cell.pointwise(params, carry, z)
    else:
      new, y = cell.step(params, carry, u)
    return freeze(alive, new, carry), (freeze(alive, y, jnp.zeros_like(y)), carry, z)

  end, (ys, before, zs) = jax.lax.scan(tick, carry, (xs, alive), reverse=reverse)
  return (end, ys), (params, xs, alive, before, zs)


def _backward(cell, reverse, saved, cotangents):
  back = _back_pointwise if cell.pointwise else _back_any
  dparams, dxs, dcarry = back(cell, reverse, *saved, *cotangents)
  return dparams, dxs, None, dcarry


deferred.defvjp(_forward, _backward)


def _number(cell, params):
  return params["b"].shape[0] // cell.features


def _split(alive, dcarry, dy):
  """Cotangents of a step: those that pass through it, and those that pass a dead row by."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  live = freeze(alive, (dcarry, dy), zero((dcarry, dy)))
  return live, zero(dcarry) if alive is None else freeze(alive, zero(dcarry), dcarry)


def _add(*trees):
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def _back_pointwise(cell, reverse, params, xs, alive, before, zs, dcarry, dys):
  """The way back of a cell of the form of `additive`, block by block of W and U."""
  number, apart = _number(cell, params), cell.apart
  blocks = lambda name: jnp.split(params[name], number, -1)
  Us, Ws = blocks("U"), blocks("W")
  small = {name: p for name, p in params.items() if name not in ("W", "U", "b")}

  def tick(carry, inputs):
    dcarry, dsmall = carry
    dy, alive, before, z = inputs
    live, passing = _split(alive, dcarry, dy)
    _, vjp = jax.vjp(cell.pointwise, small, before, z)
    dparams, (dh, *rest), dz = vjp(live)
    dh = dh + sum(dv @ U.T for dv, U in zip(_of_v(dz, number, apart), Us))
    return (_add((dh, *rest), passing), _add(dsmall, dparams)), dz

  zero = jax.tree.map(jnp.zeros_like, small)
  inputs = (dys, alive, before, zs)
  (dcarry, dsmall), dz = jax.lax.scan(tick, (dcarry, zero), inputs, reverse=not reverse)
  # By vjp, each sum over time and batch is right however these axes are sharded.
  affine = lambda W, b: jax.vjp(lambda x, W, b: x @ W + b, xs, W, b)[1]
  product = lambda U: jax.vjp(lambda U: before[0] @ U, U)[1]
  pulled = [affine(W, b)(du) for W, b, du in zip(Ws, blocks("b"), dz)]
  dxs, dW, db = (list(parts) for parts in zip(*pulled))
  dU = [product(U)(dv)[0] for U, dv in zip(Us, _of_v(dz, number, apart))]
  join = lambda parts: jnp.concatenate(parts, -1)
  return {"W": join(dW), "U": join(dU), "b": join(db)} | dsmall, sum(dxs), dcarry


def _of_v(dz, number, apart):
  """The gates' cotangents that reach v = h U; the first `number` are those that reach u."""
  return dz[: number - apart] + dz[number:]


def _back_any(cell, reverse, params, xs, alive, before, zs, dcarry, dys):
  """The way back of any cell: its step's own vjp, for the carry now and for the rest later."""
  del zs

  def tick(dcarry, inputs):
    dy, alive, before, u = inputs
    live, passing = _split(alive, dcarry, dy)
    _, vjp = jax.vjp(lambda carry: cell.step(params, carry, u), before)
    return _add(vjp(live)[0], passing), live

  us, project = jax.vjp(cell.project, params, xs)
  inputs = (dys, alive, before, us)
  dcarry, lives = jax.lax.scan(tick, dcarry, inputs, reverse=not reverse)
  steps = lambda params, us: jax.vmap(cell.step, (None, 0, 0))(params, before, us)
  dparams, dus = jax.vjp(steps, params, us)[1](lives)
  dprojected, dxs = project(dus)
  return _add(dparams, dprojected), dxs, dcarry

"""K steps back through a cell: the loop that must wait for time, then the weights, all at once.

Each way back is made for a cell, its parameters, a direction, K and a plan, and is then called as

    back(first, dcarry, xs, alive, before, zs, dys) -> dcarry, dparams, dxs

with the first of its steps in time, the cotangent of the carry that leaves them, and all that was
saved of all steps, of which it reads its own K.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.scan import freeze, project_steps
from rnnjax.cells.base import gates, wide


def entering(cell, params, u, h):
  """What enters the nonlinearities of a cell of the form of `additive`."""
  return gates(u, h @ params["U"], _number(cell, params), cell.apart)


def _number(cell, params):
  return params["b"].shape[0] // cell.features


def _flat(a):
  """All steps and rows as one axis: XLA multiplies matrices faster than it contracts two axes."""
  return a.reshape(-1, a.shape[-1])


def add(*trees):
  """The sum of trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def _split(alive, dcarry, dy):
  """Cotangents of a step: those that pass through it, and those that pass a dead row by."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  live = freeze(alive, (dcarry, dy), zero((dcarry, dy)))
  return live, zero(dcarry) if alive is None else freeze(alive, zero(dcarry), dcarry)


def _at(steps, t):
  """What was saved at step t; a chunk is not cut out first, for that would copy it."""
  return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), steps)


def back_pointwise(cell, params, reverse, K, how):
  """The way back through a cell of the form of `additive`.

  The products read the blocks of dz as rows, dh's at once and the weights' after the loop. Joining
  blocks by concatenation is slow on a CPU, writing one after another on a GPU. There a sum over
  the batch is one more launch, too: so each row of it sums its own gradients of what `pointwise`
  reads of the parameters, and they are added up after the loop.
  """
  G, H, apart = _number(cell, params), cell.features, cell.apart
  small = {name: p for name, p in params.items() if name not in ("W", "U", "b")}
  UT = params["U"].T

  def back(first, dcarry, xs, alive, before, zs, dys):
    x, h = (jax.lax.dynamic_slice_in_dim(a, first, K) for a in (xs, before[0]))
    shape, x, h = h.shape[:-1], _flat(x), _flat(h)
    batch, z = shape[1:] if how.join else (), None
    own = jax.tree.map(lambda p: jnp.broadcast_to(p, (*batch, *p.shape)), small)
    pointwise = functools.reduce(lambda one, _: jax.vmap(one), batch, cell.pointwise)
    if zs is None:
      z = [a.reshape(*shape, H) for a in entering(cell, params, cell.project(params, x), h)]

    def written(rows, us, vs, k):
      du, dv = rows
      du, dv = _write(du, us, k), _write(dv, vs, k) if apart else None
      return (du, dv), _at(dv if apart else du, k), None

    def joined(rows, us, vs, k):
      del k
      v = jnp.concatenate(vs, -1)
      return rows, v, (v, us[G - apart :])

    def tick(carry, inputs):
      dcarry, dsmall, rows = carry
      k, z = inputs
      dy, alive_k, carry_k, z_k = _at((dys, alive, before, zs), first + k)
      live, passing = _split(alive_k, dcarry, dy)
      _, vjp = jax.vjp(pointwise, own, carry_k, z_k or z)
      dparams, (dh, *rest), dz = vjp(live)
      us, vs = dz[:G], dz[: G - apart] + dz[G:]
      rows, v, made = (joined if how.join else written)(rows, us, vs, k)
      return (add((dh + v @ UT, *rest), passing), add(dsmall, dparams), rows), made

    dsmall = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), own)
    du = None if how.join else jnp.zeros_like(before[0], xs.dtype, shape=(*shape, G * H))
    start, steps = (dcarry, dsmall, (du, du if apart else None)), (jnp.arange(K), z)
    end, made = jax.lax.scan(tick, start, steps, reverse=not reverse, unroll=how.unroll)
    dcarry, dsmall, (du, dv) = end
    dsmall = jax.tree.map(lambda d: d.sum(tuple(range(len(batch)))), dsmall)
    if how.join:
      dv, last = made
      du = jnp.concatenate([dv[..., : (G - apart) * H], *last], -1) if apart else dv
    du, dv = _flat(du), _flat(dv if apart else du)
    product = functools.partial(jnp.matmul, preferred_element_type=wide(x.dtype))
    dparams = {"W": product(x.T, du), "U": product(h.T, dv), "b": du.sum(0, wide(x.dtype))}
    return dcarry, dparams | dsmall, (du @ params["W"].T).reshape(*shape, xs.shape[-1])

  return back


def _write(rows, blocks, k):
  """rows [K, ..., GH] with the blocks, each [..., H], side by side in row k."""
  H = blocks[0].shape[-1]
  for i, block in enumerate(blocks):
    at = (k, *[0] * (block.ndim - 1), i * H)
    rows = jax.lax.dynamic_update_slice(rows, block[None], at)
  return rows


def back_any(cell, params, reverse, K, how):
  """The way back through any cell: its step's own vjp, for the carry now, for the rest later."""

  def back(first, dcarry, xs, alive, before, zs, dys):
    del zs
    window = functools.partial(jax.tree.map, lambda a: jax.lax.dynamic_slice_in_dim(a, first, K))
    us, project_vjp = jax.vjp(functools.partial(project_steps, cell), params, window(xs))

    def tick(dcarry, inputs):
      k, u = inputs
      dy, alive_k, carry_k = _at((dys, alive, before), first + k)
      live, passing = _split(alive_k, dcarry, dy)
      _, vjp = jax.vjp(lambda carry: cell.step(params, carry, u), carry_k)
      return add(vjp(live)[0], passing), live

    inputs = jnp.arange(K), us
    dcarry, lives = jax.lax.scan(tick, dcarry, inputs, reverse=not reverse, unroll=how.unroll)
    carries = window(before)
    # vmap over the steps, not steps and rows reshaped to one axis: a step may mix its rows.
    steps = lambda params, us: jax.vmap(cell.step, (None, 0, 0))(params, carries, us)
    dparams, dus = jax.vjp(steps, params, us)[1](lives)
    dprojected, dxs = project_vjp(dus)
    return dcarry, add(dparams, dprojected), dxs

  return back

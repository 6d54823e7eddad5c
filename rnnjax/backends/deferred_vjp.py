"""K steps back through a cell: the loop that must wait for time, then the weights, all at once.

Each way back is made for a cell, its parameters, a direction, K and a plan, and is then called as

    back(first, dcarry, xs, alive, before, zs, dys) -> dcarry, dparams, dxs

with the first of its steps in time, the cotangent of the carry that leaves them, and all that was
saved of all steps, of which it reads its own K.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.scan import project_steps, where_mask
from rnnjax.cells.base import accumulation_dtype, preactivations


def cell_preactivations(cell, params, u, h):
  """What enters the nonlinearities of a cell of the form of `additive`."""
  return preactivations(u, h @ params["U"], _num_gates(cell, params), cell.num_split_gates)


def _num_gates(cell, params):
  return params["b"].shape[0] // cell.features


def _merge_leading_axes(a):
  """All steps and rows as one axis: XLA multiplies matrices faster than it contracts two axes."""
  return a.reshape(-1, a.shape[-1])


def tree_add(*trees):
  """The sum of trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def _split_cotangents(mask, dcarry, dy):
  """Cotangents of a step: those that pass through it, and those that pass a dead row by."""
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  live = where_mask(mask, (dcarry, dy), zero((dcarry, dy)))
  return live, zero(dcarry) if mask is None else where_mask(mask, zero(dcarry), dcarry)


def _at_step(steps, t):
  """What was saved at step t; a chunk is not cut out first, for that would copy it."""
  return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), steps)


def backward_additive(cell, params, reverse, chunk_size, options):
  """The way back through a cell of the form of `additive`.

  The products read the blocks of dz as rows, dh's at once and the weights' after the loop. Joining
  blocks by concatenation is slow on a CPU, writing one after another on a GPU. There a sum over
  the batch is one more launch, too: so each row of it sums its own gradients of what `pointwise`
  reads of the parameters, and they are added up after the loop.
  """
  G, H, apart = _num_gates(cell, params), cell.features, cell.num_split_gates
  small = {name: p for name, p in params.items() if name not in ("W", "U", "b")}
  UT = params["U"].T

  def back(first_step, dcarry, xs, mask, prev_carries, zs, dys):
    x, h = (jax.lax.dynamic_slice_in_dim(a, first_step, chunk_size) for a in (xs, prev_carries[0]))
    shape, x, h = h.shape[:-1], _merge_leading_axes(x), _merge_leading_axes(h)
    batch, z = shape[1:] if options.concat_gates else (), None
    own = jax.tree.map(lambda p: jnp.broadcast_to(p, (*batch, *p.shape)), small)
    pointwise = functools.reduce(lambda one, _: jax.vmap(one), batch, cell.pointwise)
    if zs is None:
      z = [
        a.reshape(*shape, H) for a in cell_preactivations(cell, params, cell.project(params, x), h)
      ]

    def written(buffers, us, vs, k):
      du, dv = buffers
      du, dv = _write_gates(du, us, k), _write_gates(dv, vs, k) if apart else None
      return (du, dv), _at_step(dv if apart else du, k), None

    def joined(buffers, us, vs, k):
      del k
      v = jnp.concatenate(vs, -1)
      return buffers, v, (v, us[G - apart :])

    def tick(carry, inputs):
      dcarry, dsmall, rows = carry
      k, z = inputs
      dy, alive_k, carry_k, z_k = _at_step((dys, mask, prev_carries, zs), first_step + k)
      live, passing = _split_cotangents(alive_k, dcarry, dy)
      _, vjp = jax.vjp(pointwise, own, carry_k, z_k or z)
      dparams, (dh, *rest), dz = vjp(live)
      us, vs = dz[:G], dz[: G - apart] + dz[G:]
      rows, v, made = (joined if options.concat_gates else written)(rows, us, vs, k)
      return (tree_add((dh + v @ UT, *rest), passing), tree_add(dsmall, dparams), rows), made

    dsmall = jax.tree.map(lambda p: jnp.zeros_like(p, accumulation_dtype(p.dtype)), own)
    du = (
      None
      if options.concat_gates
      else jnp.zeros_like(prev_carries[0], xs.dtype, shape=(*shape, G * H))
    )
    start, steps = (dcarry, dsmall, (du, du if apart else None)), (jnp.arange(chunk_size), z)
    end, made = jax.lax.scan(tick, start, steps, reverse=not reverse, unroll=options.unroll)
    dcarry, dsmall, (du, dv) = end
    dsmall = jax.tree.map(lambda d: d.sum(tuple(range(len(batch)))), dsmall)
    if options.concat_gates:
      dv, last = made
      du = jnp.concatenate([dv[..., : (G - apart) * H], *last], -1) if apart else dv
    du, dv = _merge_leading_axes(du), _merge_leading_axes(dv if apart else du)
    product = functools.partial(jnp.matmul, preferred_element_type=accumulation_dtype(x.dtype))
    dparams = {
      "W": product(x.T, du),
      "U": product(h.T, dv),
      "b": du.sum(0, accumulation_dtype(x.dtype)),
    }
    return dcarry, dparams | dsmall, (du @ params["W"].T).reshape(*shape, xs.shape[-1])

  return back


def _write_gates(buffer, gate_grads, k):
  """rows [K, ..., GH] with the blocks, each [..., H], side by side in row k."""
  H = gate_grads[0].shape[-1]
  for i, block in enumerate(gate_grads):
    at = (k, *[0] * (block.ndim - 1), i * H)
    buffer = jax.lax.dynamic_update_slice(buffer, block[None], at)
  return buffer


def backward_generic(cell, params, reverse, chunk_size, options):
  """The way back through any cell: its step's own vjp, for the carry now, for the rest later."""

  def back(first_step, dcarry, xs, mask, prev_carries, zs, dys):
    del zs
    window = functools.partial(
      jax.tree.map, lambda a: jax.lax.dynamic_slice_in_dim(a, first_step, chunk_size)
    )
    us, project_vjp = jax.vjp(functools.partial(project_steps, cell), params, window(xs))

    def tick(dcarry, inputs):
      k, u = inputs
      dy, alive_k, carry_k = _at_step((dys, mask, prev_carries), first_step + k)
      live, passing = _split_cotangents(alive_k, dcarry, dy)
      _, vjp = jax.vjp(lambda carry: cell.step(params, carry, u), carry_k)
      return tree_add(vjp(live)[0], passing), live

    inputs = jnp.arange(chunk_size), us
    dcarry, lives = jax.lax.scan(tick, dcarry, inputs, reverse=not reverse, unroll=options.unroll)
    carries = window(prev_carries)
    # vmap over the steps, not steps and rows reshaped to one axis: a step may mix its rows.
    steps = lambda params, us: jax.vmap(cell.step, (None, 0, 0))(params, carries, us)
    dparams, dus = jax.vjp(steps, params, us)[1](lives)
    dprojected, dxs = project_vjp(dus)
    return dcarry, tree_add(dparams, dprojected), dxs

  return back

"""Long short-term memory: Hochreiter & Schmidhuber 1997, with the forget gate of Gers,
Schmidhuber & Cummins 2000 and its bias of 1 (Jozefowicz, Zaremba & Sutskever 2015).

Options: peepholes (Gers & Schmidhuber 2000), coupled input and forget gates (Greff et al. 2017),
projection (Sak, Senior & Beaufays 2014), and an output without tanh.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.base import (
  accumulation_dtype,
  additive,
  cell_factory,
  chrono_bias,
  init_gates,
  project,
  zeros_like_batch,
)
from rnnjax.types import Array, Carry, Params

σ = jax.nn.sigmoid
NUM_GATES = 4


def lstm_step(params: Params, carry: Carry, gates: list[Array]) -> tuple[Carry, Array]:
  """One tick of an LSTM.

      i, f, g, o = split(xₜ W + b + hₜ₋₁ U)
      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g)
      hₜ = σ(o) ⊙ tanh(cₜ)

  Args:
    params: {"W": [D, 4H], "U": [H, 4H], "b": [4H]}, not read here.
    carry: (h, c), each [..., H]; c is float32 or wider.
    gates: i, f, g, o, each [..., H].

  Returns:
    ((h, c), h).

  >>> (h, c), y = tick({}, (jnp.ones(1), jnp.ones(1)), [jnp.zeros(1)] * 4)
  >>> float(c[0])
  0.5
  """
  _, c = carry
  i, f, g, o = gates
  c = σ(f) * c + σ(i) * jnp.tanh(g)
  h = (σ(o) * jnp.tanh(c)).astype(o.dtype)
  return (h, c), h


def lstm_variant_step(
  params, carry, gates, *, peepholes, coupled, output_tanh
) -> tuple[Carry, Array]:
  """One tick of an LSTM with options.

      i, f, g, o = split(xₜ W + b + hₜ₋₁ U)        f, g, o when coupled, with σ(i) := 1 − σ(f)
      i, f = i + pᵢ ⊙ cₜ₋₁, f + p_f ⊙ cₜ₋₁         peepholes
      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g)
      o = o + pₒ ⊙ cₜ                              peepholes
      hₜ = σ(o) ⊙ tanh(cₜ)                         σ(o) ⊙ cₜ without output_tanh

  Args:
    params: as for `tick`; of them "p" [3, H] (pᵢ, p_f, pₒ; [2, H] when coupled) is read for
      peepholes.
    carry, gates: as for `tick`.
    peepholes, coupled, output_tanh: the options.

  Returns:
    ((h, c), h).
  """
  _, c = carry
  *i, f, g, o = gates
  dtype = o.dtype
  if peepholes:
    *pi, pf, po = params["p"]
    i, f = [z + p * c for z, p in zip(i, pi)], f + pf * c
  f = σ(f)
  c = f * c + (1 - f if coupled else σ(i[0])) * jnp.tanh(g)
  if peepholes:
    o = o + po * c
  h = (σ(o) * (jnp.tanh(c) if output_tanh else c)).astype(dtype)
  return (h, c), h


def lstm_projection_step(params, carry, u, *, pointwise, num_gates) -> tuple[Carry, Array]:
  """One tick of an LSTM with a projection: h of `pointwise` is read, and returned, as h P.

  Args:
    params: {"W": [D, 4C], "U": [H, 4C], "b": [4C], "P": [C, H], ...}.
    carry: (h [..., H], c [..., C]).
    u: [..., 4C], xₜ W + b.
    pointwise: the tick of the C memory cells.
    number: G, 4 or 3.

  Returns:
    ((h, c), h).
  """
  (m, c), _ = pointwise(params, carry, jnp.split(u + carry[0] @ params["U"], num_gates, -1))
  h = m @ params["P"]
  return (h, c), h


@cell_factory
def lstm(
  features: int,
  *,
  peepholes: bool = False,
  coupled: bool = False,
  output_tanh: bool = True,
  cell_size: int | None = None,
  forget_bias: float = 1.0,
  chrono: float | None = None,
):
  """An LSTM of H = features hidden units; parameters: 4(DH + H² + H).

  Args:
    features: H.
    peepholes: the gates see the memory cells.
    coupled: one gate forgets and admits, σ(i) = 1 − σ(f).
    output_tanh: False leaves out the tanh of the output, aₜ = Γₒ ⊙ cₜ as some notes write it.
    cells: C, memory cells that are projected onto the H features; as many as H, and no
      projection, where it is None.
    forget_bias: where the bias of the forget gate starts, without chrono.
    chrono: the longest time to remember, in steps; the forget gate's biases start at as many
      `lifetimes` up to it, and the input gate's at their negatives.

  >>> lstm(100)
  lstm(100)
  >>> lstm(8, peepholes=True) is lstm(8, coupled=False, peepholes=True)
  True
  """
  if cell_size is not None and cell_size < 1:
    raise ValueError(f"lstm needs a positive number of memory cells; got {cell_size}")
  H, C, gates = features, features if cell_size is None else cell_size, NUM_GATES - coupled
  forget = slice(0, C) if coupled else slice(C, 2 * C)

  def begin(key, D):
    params = init_gates(key, D, C, gates)
    timed = chrono is not None
    bias = chrono_bias(jax.random.fold_in(key, 1), chrono, C) if timed else forget_bias
    params["b"] = params["b"].at[forget].set(bias)
    if timed and not coupled:  # coupled, one gate does both
      params["b"] = params["b"].at[:C].set(-bias)
    if cell_size:
      glorot, keys = jax.nn.initializers.glorot_uniform(), jax.random.split(key, gates + 1)
      params["U"] = jnp.concatenate([glorot(k, (H, C)) for k in keys[1:]], -1)
      params["P"] = glorot(keys[0], (C, H))
    if peepholes:
      params["p"] = jnp.zeros((gates - 1, C))
    return params

  start = lambda x: (zeros_like_batch(x, H), zeros_like_batch(x, C, accumulation_dtype(x.dtype)))
  options = dict(peepholes=peepholes, coupled=coupled, output_tanh=output_tanh)
  plain = output_tanh and not (peepholes or coupled)
  pointwise = lstm_step if plain else functools.partial(lstm_variant_step, **options)
  if cell_size:
    step = functools.partial(lstm_projection_step, pointwise=pointwise, num_gates=gates)
    return {"init": begin, "initial_carry": start, "project": project, "step": step}
  return {"init": begin, "initial_carry": start, **additive(pointwise, gates)}

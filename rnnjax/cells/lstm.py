"""Long short-term memory: Hochreiter & Schmidhuber 1997, with the forget gate of Gers,
Schmidhuber & Cummins 2000 and a forget bias of 1 (Jozefowicz, Zaremba & Sutskever 2015).

Options: peepholes (Gers & Schmidhuber 2000), coupled input and forget gates (Greff et al. 2017),
projection (Sak, Senior & Beaufays 2014), and an output without tanh.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.base import additive, cell_factory, project, zero_carry
from rnnjax.cells.initializers import chrono_bias, init_gates
from rnnjax.types import Array, Carry, Params

σ = jax.nn.sigmoid
NUM_GATES = 4


def lstm_step(params: Params, carry: Carry, gates: list[Array]) -> tuple[Carry, Array]:
  """Run one step of an LSTM.

      i, f, g, o = split(xₜ W + b + hₜ₋₁ U)
      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g)
      hₜ = σ(o) ⊙ tanh(cₜ)

  Args:
    params: {"W": [D, 4H], "U": [H, 4H], "b": [4H]}; not used here.
    carry: the tuple (h, c), each [..., H]; c is float32 or wider.
    gates: the list [i, f, g, o], each [..., H].

  Returns:
    The carry (h, c) and the output h.

  >>> (h, c), y = lstm_step({}, (jnp.ones(1), jnp.ones(1)), [jnp.zeros(1)] * 4)
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
  """Run one step of an LSTM with peepholes, coupled gates or an output without tanh.

      i, f, g, o = split(xₜ W + b + hₜ₋₁ U)        if coupled: f, g, o, and 1 − σ(f) replaces σ(i)
      i, f = i + pᵢ ⊙ cₜ₋₁, f + p_f ⊙ cₜ₋₁         if peepholes
      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g)
      o = o + pₒ ⊙ cₜ                              if peepholes
      hₜ = σ(o) ⊙ tanh(cₜ)                         σ(o) ⊙ cₜ if not output_tanh

  Args:
    params: {"p": [3, H], ...}, the peephole weights pᵢ, p_f, pₒ. If coupled, p is [2, H] and
      contains p_f, pₒ. Only "p" is used here, and only if peepholes is True.
    carry: the tuple (h, c), as for `lstm_step`.
    gates: the list [i, f, g, o], or [f, g, o] if coupled, each [..., H].
    peepholes, coupled, output_tanh: as for `lstm`.

  Returns:
    The carry (h, c) and the output h.
  """
  _, c = carry
  *i, f, g, o = gates  # i is an empty list if coupled
  dtype = o.dtype
  if peepholes:
    *pi, pf, po = params["p"]
    i = [z + p * c for z, p in zip(i, pi)]
    f = f + pf * c
  f = σ(f)
  c = f * c + (1 - f if coupled else σ(i[0])) * jnp.tanh(g)
  if peepholes:
    o = o + po * c
  h = (σ(o) * (jnp.tanh(c) if output_tanh else c)).astype(dtype)
  return (h, c), h


def lstm_projection_step(params, carry, u, *, pointwise, num_gates) -> tuple[Carry, Array]:
  """Run one step of an LSTM with projection: the output m [..., C] of `pointwise` gives h = m P.

  Args:
    params: {"W": [D, GC], "U": [H, GC], "b": [GC], "P": [C, H], ...}; W and b are not used here.
    carry: the tuple (h [..., H], c [..., C]).
    u: projected inputs xₜ W + b, [..., GC].
    pointwise: `lstm_step` or `lstm_variant_step`, for C memory cells.
    num_gates: number of gates, G: 3 if coupled, otherwise 4.

  Returns:
    The carry (h, c) and the output h.
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
  """Build an LSTM with H = features hidden units.

  With the default options, the LSTM has 4(DH + H² + H) parameters.

  Args:
    features: number of hidden units, H.
    peepholes: whether the gates also depend on the memory cells c.
    coupled: whether the input gate is 1 − σ(f) instead of a separate gate.
    output_tanh: False removes the tanh from the output: hₜ = σ(o) ⊙ cₜ, as in some lecture notes.
    cell_size: number of memory cells, C. A projection maps C to H features. None for C = H without
      projection.
    forget_bias: initial bias of the forget gate; used only if chrono is None.
    chrono: longest time constant in steps, from which the biases of the forget gate are initialized
      (`chrono_bias`). The biases of the input gate are the negatives of the forget gate's biases;
      coupled cells have no input gate. None uses forget_bias.

  Raises:
    ValueError: cell_size < 1.
    InvalidInputError (from init): chrono is less than 2.

  >>> lstm(100)
  lstm(100)
  >>> lstm(8, peepholes=True) is lstm(8, coupled=False, peepholes=True)
  True
  """
  if cell_size is not None and cell_size < 1:
    raise ValueError(f"lstm needs a positive number of memory cells; got cell_size={cell_size}")
  H, C = features, features if cell_size is None else cell_size
  num_gates = NUM_GATES - coupled
  forget = slice(0, C) if coupled else slice(C, 2 * C)

  def init(key, D):
    params = init_gates(key, D, C, num_gates)
    if chrono is None:
      params["b"] = params["b"].at[forget].set(forget_bias)
    else:
      bias = chrono_bias(jax.random.fold_in(key, 1), chrono, C)
      params["b"] = params["b"].at[forget].set(bias)
      if not coupled:
        params["b"] = params["b"].at[:C].set(-bias)
    if cell_size:
      glorot = jax.nn.initializers.glorot_uniform()
      P_key, *U_keys = jax.random.split(key, num_gates + 1)
      params["U"] = jnp.concatenate([glorot(k, (H, C)) for k in U_keys], -1)
      params["P"] = glorot(P_key, (C, H))
    if peepholes:
      params["p"] = jnp.zeros((num_gates - 1, C))
    return params

  if peepholes or coupled or not output_tanh:
    options = dict(peepholes=peepholes, coupled=coupled, output_tanh=output_tanh)
    pointwise = functools.partial(lstm_variant_step, **options)
  else:
    pointwise = lstm_step
  functions = {"init": init, "initial_carry": zero_carry(H, C)}
  if cell_size:
    step = functools.partial(lstm_projection_step, pointwise=pointwise, num_gates=num_gates)
    return functions | {"project": project, "step": step}
  return functions | additive(pointwise, num_gates)

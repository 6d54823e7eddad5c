"""Weights from and to the recurrent layers of Keras 3, without Keras.

    SimpleRNN(H)                                     forward(vanilla(H))
    SimpleRNN(H, activation="relu")                  forward(vanilla(H, activation="relu"))
    LSTM(H)                                          forward(lstm(H))
    GRU(H)                                           forward(gru(H))
    GRU(H, reset_after=False)                        forward(gru(H, reset="before"))
    Bidirectional(LSTM(H))                           bidirectional(lstm(H), lstm(H))
    Bidirectional(LSTM(H), merge_mode="sum")         bidirectional(lstm(H), lstm(H), "sum")

So too merge_mode "ave" is "mean" and "mul" is "product"; return_sequences=True gives what an
encoder gives. W is kernel, U recurrent_kernel and b bias, with gates in one order save for a GRU's:
z, r, h there and r, z, n here. Where it resets after the product, bias [2, 3H] holds two. What
weights do not show, such as an activation or a merge, is for you to choose.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.interop.weights import (
  as_float_array,
  check_shape,
  encoder_layers,
  infer_num_gates,
  matrix_size,
  merge_gru_biases,
  recurrent_bias,
  validate_cell_params,
)
from rnnjax.types import Array, InvalidInputError, Params

WEIGHT_NAMES = ("kernel", "recurrent_kernel", "bias")
Weights = Sequence[Any] | Mapping[str, Any]


def from_keras(*weights: Weights) -> Params:
  """The parameters of a stack.

  Args:
    *weights: of each layer, the lowest first, what its get_weights() gives, or
      {w.path: w.numpy() for w in layer.weights}.

  Raises:
    BadInput: they are not of a recurrent layer, a shape does not suit the others, or something is
      no array of floating numbers.

  >>> params = from_keras([np.zeros((3, 8)), np.zeros((2, 8)), np.zeros(8)])
  >>> params["layer_0"]["forward"]["W"].shape  # of stack(forward(lstm(2)))
  (3, 8)
  """
  return {f"layer_{i}": _layer_from_keras(f"layer {i}", given) for i, given in enumerate(weights)}


def to_keras(params: Params) -> list[list[np.ndarray]]:
  """What set_weights of each layer takes, the lowest first:

      for layer, weights in zip(layers, to_keras(params), strict=True):
        layer.set_weights(weights)

  Args:
    params: of a stack, of forward(cell), or of bidirectional(cell, cell).

  Raises:
    BadInput: Keras has no such layer: it lacks peepholes and projections. (It lacks coupled gates
      too, but three blocks without b_hn are taken for those of gru(reset="before").)

  >>> params = {"W": np.zeros((3, 2)), "U": np.zeros((2, 2)), "b": np.ones(2)}
  >>> [w.shape for w in to_keras({"forward": params})[0]]  # of SimpleRNN(2)
  [(3, 2), (2, 2), (2,)]
  """
  ways = ("forward", "backward")  # so they stand in a Bidirectional
  return [
    [w for way in ways if way in layer for w in _cell_to_keras(f"layer_{i}/{way}", layer[way])]
    for i, layer in enumerate(encoder_layers(params))
  ]


def _layer_from_keras(location: str, weights: Weights) -> Params:
  """The parameters of a layer, direction by direction."""
  if isinstance(weights, Mapping):
    weights = _sort_weights(location, weights)
  if len(weights) not in (2, 3, 4, 6):
    raise InvalidInputError(
      f"{location} must have kernel, recurrent_kernel and, unless use_bias=False, bias, twice if "
      f"bidirectional; got {len(weights)} arrays. Are they of more than one layer?"
    )
  if len(weights) < 4:
    return {"forward": _cell_from_keras(location, weights)}
  half = len(weights) // 2
  ahead = _cell_from_keras(f"{location} forward", weights[:half])
  back = _cell_from_keras(f"{location} backward", weights[half:])
  if len(ahead["W"]) != len(back["W"]):
    raise InvalidInputError(
      f"{location} has two directions, but they read {len(ahead['W'])} and {len(back['W'])} features. "
      "Are they two layers?"
    )
  return {"forward": ahead, "backward": back}


def _sort_weights(location, weights):
  """Weights by their paths, such as bidirectional/backward_gru/gru_cell/bias, in Keras' order."""

  def place(path):
    layer, _, name = f"//{path}".split("/")[-3:]
    if name not in WEIGHT_NAMES:
      raise InvalidInputError(
        f"{location} has {path!r}, which is none of {', '.join(WEIGHT_NAMES)}"
      )
    return layer.startswith("backward_"), WEIGHT_NAMES.index(name)

  places = {place(path): path for path in weights}
  if len(places) < len(weights):
    raise InvalidInputError(f"{location} has weights of more than one layer: {', '.join(weights)}")
  return [weights[places[at]] for at in sorted(places)]


def _cell_from_keras(location: str, weights: Sequence[Any]) -> Params:
  """The parameters of a cell."""
  W, U, *bias = (as_float_array(f"{location}: {name}", w) for name, w in zip(WEIGHT_NAMES, weights))
  D, H = matrix_size(W, 0), matrix_size(U, 0)
  G = infer_num_gates(f"{location}: recurrent_kernel", matrix_size(U, 1), H)
  if G == 3 and not bias:
    raise InvalidInputError(
      f"{location} is a GRU without bias, which does not tell where it resets: add zeros, "
      f"{(2, 3 * H)} for reset_after=True and {(3 * H,)} for reset_after=False"
    )
  b = bias[0] if bias else jnp.zeros_like(U[0])
  after = G == 3 and b.ndim == 2
  check_shape(f"{location}: kernel", W, (D, G * H))
  check_shape(f"{location}: bias", b, (2, G * H) if after else (G * H,))
  if G == 3:
    W, U, b = map(_swap_gru_gates, (W, U, b))
  return {"W": W, "U": U} | (merge_gru_biases(*b) if after else {"b": b})


def _cell_to_keras(location: str, params: Params) -> list[np.ndarray]:
  """The weights of a cell."""
  params, G = validate_cell_params(location, params, "b_hn")
  b = jnp.stack([params["b"], recurrent_bias(params)]) if "b_hn" in params else params["b"]
  weights = [params["W"], params["U"], b]
  return [np.array(_swap_gru_gates(w) if G == 3 else w) for w in weights]


def _swap_gru_gates(gates: Array) -> Array:
  """z, r, h ↔ r, z, n."""
  one, two, three = jnp.split(gates, 3, -1)
  return jnp.concatenate([two, one, three], -1)

"""Conversion of weights from and to the recurrent layers of Keras 3. Keras is not imported.

    SimpleRNN(H)                                     forward(vanilla(H))
    SimpleRNN(H, activation="relu")                  forward(vanilla(H, activation="relu"))
    LSTM(H)                                          forward(lstm(H))
    GRU(H)                                           forward(gru(H))
    GRU(H, reset_after=False)                        forward(gru(H, reset="before"))
    Bidirectional(LSTM(H))                           bidirectional(lstm(H), lstm(H))
    Bidirectional(LSTM(H), merge_mode="sum")         bidirectional(lstm(H), lstm(H), "sum")

Likewise, merge_mode "ave" corresponds to "mean", and "mul" to "product". Encoders return the
outputs of all steps, as Keras does with return_sequences=True. W is the kernel, U the
recurrent_kernel and b the bias. The gate order is the same except for the GRU: z, r, h in Keras and
r, z, n here. A GRU with reset_after=True has two biases, stored as one array [2, 3H]. The caller
must set options that the weights do not determine, such as activations and merge modes.
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
  """Return the parameters of a stack, converted from the weights of Keras layers.

  Args:
    *weights: the weights of each layer, the lowest layer first: layer.get_weights() or {w.path:
      w.numpy() for w in layer.weights}.

  Raises:
    InvalidInputError: the weights do not belong to a recurrent layer; shapes do not match; a value
      is not a floating point array.

  >>> params = from_keras([np.zeros((3, 8)), np.zeros((2, 8)), np.zeros(8)])
  >>> params["layer_0"]["forward"]["W"].shape  # of stack(forward(lstm(2)))
  (3, 8)
  """
  return {f"layer_{i}": _layer_from_keras(f"layer {i}", layer) for i, layer in enumerate(weights)}


def to_keras(params: Params) -> list[list[np.ndarray]]:
  """Convert parameters to a list with the argument of set_weights for each layer, lowest first.

      for layer, weights in zip(layers, to_keras(params), strict=True):
        layer.set_weights(weights)

  Args:
    params: parameters of a stack, of forward(cell), or of bidirectional(cell, cell).

  Raises:
    InvalidInputError: the parameters contain peepholes or projections, which Keras does not
      support. Coupled gates are not detected: a cell with three gates and no b_hn is converted as
      gru(reset="before").

  >>> params = {"W": np.zeros((3, 2)), "U": np.zeros((2, 2)), "b": np.ones(2)}
  >>> [w.shape for w in to_keras({"forward": params})[0]]  # of SimpleRNN(2)
  [(3, 2), (2, 2), (2,)]
  """
  weights = []
  for i, layer in enumerate(encoder_layers(params)):
    directions = [name for name in ("forward", "backward") if name in layer]  # Keras' order
    cells = [_cell_to_keras(f"layer_{i}/{name}", layer[name]) for name in directions]
    weights.append([w for cell in cells for w in cell])
  return weights


def _layer_from_keras(location: str, weights: Weights) -> Params:
  """Return {"forward": params}, and also "backward": params if the layer is bidirectional."""
  if isinstance(weights, Mapping):
    weights = _sort_weights(location, weights)
  if len(weights) not in (2, 3, 4, 6):
    raise InvalidInputError(
      f"{location} must have kernel, recurrent_kernel and, unless use_bias=False, bias, twice if "
      f"bidirectional; got {len(weights)} arrays. Do they belong to more than one layer?"
    )
  if len(weights) < 4:
    return {"forward": _cell_from_keras(location, weights)}
  half = len(weights) // 2
  forward = _cell_from_keras(f"{location} forward", weights[:half])
  backward = _cell_from_keras(f"{location} backward", weights[half:])
  if len(forward["W"]) != len(backward["W"]):
    raise InvalidInputError(
      f"{location} has two directions, but they read {len(forward['W'])} and "
      f"{len(backward['W'])} features. Are they two layers?"
    )
  return {"forward": forward, "backward": backward}


def _sort_weights(location, weights):
  """Return the weights of a dict {path: weight} as a list in the order of get_weights().

  A path is, for example, bidirectional/backward_gru/gru_cell/bias.
  """

  def sort_key(path):
    layer, _, name = f"//{path}".split("/")[-3:]
    if name not in WEIGHT_NAMES:
      raise InvalidInputError(
        f"{location} has {path!r}; its weights must be {', '.join(WEIGHT_NAMES)}"
      )
    return layer.startswith("backward_"), WEIGHT_NAMES.index(name)

  paths = {sort_key(path): path for path in weights}
  if len(paths) < len(weights):
    raise InvalidInputError(f"{location} has weights of more than one layer: {', '.join(weights)}")
  return [weights[paths[key]] for key in sorted(paths)]


def _cell_from_keras(location: str, weights: Sequence[Any]) -> Params:
  """Return the parameters of a cell, converted from Keras weights."""
  W, U, *bias = (as_float_array(f"{location}: {name}", w) for name, w in zip(WEIGHT_NAMES, weights))
  D, H = matrix_size(W, 0), matrix_size(U, 0)
  G = infer_num_gates(f"{location}: recurrent_kernel", matrix_size(U, 1), H)
  if G == 3 and not bias:
    raise InvalidInputError(
      f"{location} is a GRU without bias, which does not show reset_after. Add a bias of zeros: "
      f"{(2, 3 * H)} for reset_after=True and {(3 * H,)} for reset_after=False"
    )
  b = bias[0] if bias else jnp.zeros_like(U[0])
  reset_after = G == 3 and b.ndim == 2
  check_shape(f"{location}: kernel", W, (D, G * H))
  check_shape(f"{location}: bias", b, (2, G * H) if reset_after else (G * H,))
  if G == 3:
    W, U, b = map(_swap_gru_gates, (W, U, b))
  return {"W": W, "U": U} | (merge_gru_biases(*b) if reset_after else {"b": b})


def _cell_to_keras(location: str, params: Params) -> list[np.ndarray]:
  """Return the Keras weights of a cell."""
  params, G = validate_cell_params(location, params, "b_hn")
  b = jnp.stack([params["b"], recurrent_bias(params)]) if "b_hn" in params else params["b"]
  weights = [params["W"], params["U"], b]
  return [np.array(_swap_gru_gates(w) if G == 3 else w) for w in weights]


def _swap_gru_gates(gates: Array) -> Array:
  """Swap the first two gates of a GRU: z, r, h ↔ r, z, n."""
  first, second, candidate = jnp.split(gates, 3, -1)
  return jnp.concatenate([second, first, candidate], -1)

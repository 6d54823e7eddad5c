"""Conversion of weights from and to PyTorch's recurrent layers. PyTorch is not imported.

    nn.RNN(D, H)                        stack(forward(vanilla(H)))
    nn.RNN(D, H, nonlinearity="relu")   stack(forward(vanilla(H, activation="relu")))
    nn.GRU(D, H)                        stack(forward(gru(H)))
    nn.LSTM(D, H, num_layers=2)         stack(forward(lstm(H)), forward(lstm(H)))
    nn.LSTM(D, C, proj_size=H)          stack(forward(lstm(H, cell_size=C)))
    nn.LSTM(D, H, bidirectional=True)   stack(bidirectional(lstm(H), lstm(H)))
    nn.LSTMCell(D, H)                   lstm(H)

The gate order is the same. W = weight_ihᵀ, U = weight_hhᵀ, P = weight_hrᵀ and b = bias_ih +
bias_hh. In the candidate of a GRU, b is bias_ih, and bias_hh is the separate parameter b_hn.
PyTorch's dropout between layers is stack(..., dropout=p, variational=False). The caller must set
options that the parameters do not determine, such as activations or output_tanh=False.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnjax.interop.weights import (
  CELL_NAMES,
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


def from_torch(state_dict: Mapping[str, Any], prefix: str = "") -> Params:
  """Convert a PyTorch state_dict to the parameters of a stack, or of a cell for an nn.LSTMCell.

  Args:
    state_dict: {PyTorch name: array}. Names without the suffix "_l0" belong to a cell. If there
      are no biases, the biases are zero.
    prefix: prefix of the names in a larger model, such as "encoder.lstm."; names without the prefix
      are ignored.

  Raises:
    InvalidInputError: a name is missing or unknown; shapes do not match; a value is not a floating
      point array.

  >>> state_dict = {"weight_ih_l0": np.zeros((8, 3)), "weight_hh_l0": np.zeros((8, 2))}
  >>> params = from_torch(state_dict)
  >>> params["layer_0"]["forward"]["W"].shape  # of stack(forward(lstm(2)))
  (3, 8)
  """
  names = [name for name in state_dict if name.startswith(prefix)]
  arrays = {name.removeprefix(prefix): state_dict[name] for name in names}
  if not any(name.startswith("weight_ih") for name in arrays):
    prefixes = {name.partition("weight_ih")[0] for name in state_dict if "weight_ih" in name}
    raise InvalidInputError(
      f"there is no weight_ih with the prefix {prefix!r}; prefixes of weight_ih are "
      f"{sorted(prefixes)}"
    )
  params = {}
  for suffix, weights in _cell_weights(arrays).items():
    if not suffix:
      return _cell_from_torch(weights)
    _, layer, *reverse = suffix.split("_")
    direction = "backward" if reverse else "forward"
    params.setdefault(layer.replace("l", "layer_"), {})[direction] = _cell_from_torch(weights)
  return params


def to_torch(params: Params, prefix: str = "") -> dict[str, np.ndarray]:
  """Convert parameters to the state_dict of the equivalent PyTorch layer or cell.

      layer.load_state_dict({name: torch.tensor(a) for name, a in to_torch(params).items()})

  PyTorch adds two biases: bias_ih is b, and bias_hh is zero except for the b_hn of a GRU.

  Args:
    params: parameters of a stack, of forward(cell), of bidirectional(cell, cell), or of a cell.
    prefix: prefix of each name.

  Raises:
    InvalidInputError: PyTorch has no equivalent layer. PyTorch requires the same number of units in
      all layers, concatenates the outputs of both directions, and applies a GRU's reset gate after
      the product with U.

  >>> params = {"W": np.zeros((3, 6)), "U": np.zeros((2, 6)), "b": np.ones(6), "b_hn": np.ones(2)}
  >>> to_torch(params)["bias_hh"]  # of gru(2)
  array([0., 0., 0., 0., 1., 1.], dtype=float32)
  """
  if "W" in params:
    arrays = _cell_to_torch("the cell", params, "")
  else:
    arrays, suffixes = {}, {"forward": "", "backward": "_reverse"}
    for i, layer in enumerate(encoder_layers(params)):
      for direction, cell in layer.items():
        suffix = f"_l{i}{suffixes[direction]}"
        arrays |= _cell_to_torch(f"layer_{i}/{direction}", cell, suffix)
  _cell_weights(arrays)  # raises if names or shapes do not match a PyTorch layer
  return {prefix + name: np.array(a, order="C") for name, a in arrays.items()}


def _cell_weights(arrays: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
  """Group arrays by cell as {suffix: weights}; a suffix is, for example, "_l0_reverse".

  Raises:
    InvalidInputError: names or shapes do not match a PyTorch layer.
  """
  has_bias = any(name.startswith("bias_") for name in arrays)
  has_projection = any(name.startswith("weight_hr") for name in arrays)
  num_layers = sum(name.startswith("weight_ih_l") and name.count("_") == 2 for name in arrays)
  directions = ["", "_reverse"] if any(name.endswith("_reverse") for name in arrays) else [""]
  suffixes = [f"_l{i}{direction}" for i in range(num_layers) for direction in directions] or [""]
  parts = ["weight_ih", "weight_hh"]
  parts += ["bias_ih", "bias_hh"] if has_bias else []
  parts += ["weight_hr"] if has_projection else []
  expected = {part + suffix for suffix in suffixes for part in parts}
  if expected != arrays.keys():
    missing, unknown = sorted(expected - arrays.keys()), sorted(arrays.keys() - expected)
    raise InvalidInputError(
      f"each of {len(suffixes)} cells should have {', '.join(parts)}. Missing: "
      f"{', '.join(missing) or 'none'}. Unknown: {', '.join(unknown) or 'none'}"
    )
  cells = {s: {p: as_float_array(p + s, arrays[p + s]) for p in parts} for s in suffixes}

  first = cells[suffixes[0]]
  D, H = matrix_size(first["weight_ih"], 1), matrix_size(first["weight_hh"], 1)
  C = matrix_size(first["weight_hr"], 1) if has_projection else H
  G = infer_num_gates("weight_hh" + suffixes[0], matrix_size(first["weight_hh"], 0), C)
  if has_projection and not (G == 4 and H < C):
    raise InvalidInputError(
      f"a projection, weight_hr, needs an LSTM and fewer outputs than units; got {CELL_NAMES[G]} "
      f"of {C} units and {H} outputs"
    )
  for i, (suffix, weights) in enumerate(cells.items()):
    input_size = D if i < len(directions) else len(directions) * H
    shapes = dict(weight_ih=(G * C, input_size), weight_hh=(G * C, H), weight_hr=(H, C))
    for part, a in weights.items():
      check_shape(part + suffix, a, shapes.get(part, (G * C,)))
  return cells


def _cell_from_torch(weights: dict[str, Array]) -> Params:
  """Return the parameters of a cell, converted from PyTorch weights."""
  params = {"W": weights["weight_ih"].T, "U": weights["weight_hh"].T}
  if "weight_hr" in weights:
    params["P"] = weights["weight_hr"].T
  zeros = jnp.zeros_like(params["U"][0])
  bias_ih, bias_hh = (weights.get(name, zeros) for name in ("bias_ih", "bias_hh"))
  is_gru = "P" not in params and len(bias_ih) == 3 * len(params["U"])
  return params | (merge_gru_biases(bias_ih, bias_hh) if is_gru else {"b": bias_ih + bias_hh})


def _cell_to_torch(location: str, params: Params, suffix: str) -> dict[str, Array]:
  """Return the weights of a cell as {PyTorch name: array}."""
  params, G = validate_cell_params(location, params, "b_hn", "P")
  if G == 3 and "b_hn" not in params:
    raise InvalidInputError(
      f"{location} has three gates but no b_hn. Is it gru(reset='before') or lstm(coupled=True)? "
      "PyTorch has neither"
    )
  weights = {"weight_ih": params["W"].T, "weight_hh": params["U"].T}
  if "P" in params:
    weights["weight_hr"] = params["P"].T
  weights |= {"bias_ih": params["b"], "bias_hh": recurrent_bias(params)}
  return {part + suffix: a for part, a in weights.items()}

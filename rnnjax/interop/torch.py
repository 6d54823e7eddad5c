"""Weights from and to PyTorch's recurrent layers, without torch.

    nn.RNN(D, H)                        stack(forward(vanilla(H)))
    nn.RNN(D, H, nonlinearity="relu")   stack(forward(vanilla(H, activation="relu")))
    nn.GRU(D, H)                        stack(forward(gru(H)))
    nn.LSTM(D, H, num_layers=2)         stack(forward(lstm(H)), forward(lstm(H)))
    nn.LSTM(D, C, proj_size=H)          stack(forward(lstm(H, cells=C)))
    nn.LSTM(D, H, bidirectional=True)   stack(bidirectional(lstm(H), lstm(H)))
    nn.LSTMCell(D, H)                   lstm(H)

Gate order is one and the same. So W = weight_ihᵀ, U = weight_hhᵀ, P = weight_hrᵀ and
b = bias_ih + bias_hh, save for a GRU, whose candidate keeps the third part of bias_hh inside as
b_hn. Torch's dropout between layers is stack(..., dropout=rate, locked=False). What parameters do
not show, such as an activation or squash=False, is for you to choose.
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
  """The parameters of a stack; of a cell where the names are those of a cell.

  Args:
    state_dict: arrays by torch's names; without biases, biases are zero.
    prefix: of a larger model, what stands before weight_ih_l0, such as "encoder.lstm.".

  Raises:
    BadInput: a name is missing or unknown, a shape does not suit the others, or a value is no
      array of floating numbers.

  >>> state_dict = {"weight_ih_l0": np.zeros((8, 3)), "weight_hh_l0": np.zeros((8, 2))}
  >>> params = from_torch(state_dict)
  >>> params["layer_0"]["forward"]["W"].shape  # of stack(forward(lstm(2)))
  (3, 8)
  """
  mine = [name for name in state_dict if name.startswith(prefix)]
  named = {name.removeprefix(prefix): state_dict[name] for name in mine}
  if not any(name.startswith("weight_ih") for name in named):
    parts = sorted({name.partition("weight_ih")[0] for name in state_dict if "weight_ih" in name})
    raise InvalidInputError(
      f"no weight_ih stands behind the prefix {prefix!r}; it does behind {parts}"
    )
  params = {}
  for suffix, weights in _cell_weights(named).items():
    if not suffix:
      return _cell_from_torch(weights)
    _, layer, *reverse = suffix.split("_")
    way = "backward" if reverse else "forward"
    params.setdefault(layer.replace("l", "layer_"), {})[way] = _cell_from_torch(weights)
  return params


def to_torch(params: Params, prefix: str = "") -> dict[str, np.ndarray]:
  """The state_dict of a layer, or cell, that computes what an encoder, or cell, does.

      layer.load_state_dict({name: torch.tensor(a) for name, a in to_torch(params).items()})

  Torch adds two biases: bias_ih is b, and bias_hh zero save for a GRU's b_hn.

  Args:
    params: of a stack, of forward(cell), of bidirectional(cell, cell), or of a cell.
    prefix: what shall stand before each name.

  Raises:
    BadInput: torch has no such layer: its cells all have as many units, the outputs of both
      directions stand side by side, and a GRU resets after the product.

  >>> params = {"W": np.zeros((3, 6)), "U": np.zeros((2, 6)), "b": np.ones(6), "b_hn": np.ones(2)}
  >>> to_torch(params)["bias_hh"]  # of gru(2)
  array([0., 0., 0., 0., 1., 1.], dtype=float32)
  """
  if "W" in params:
    named = _cell_to_torch("the cell", params, "")
  else:
    named, ends = {}, {"forward": "", "backward": "_reverse"}
    for i, layer in enumerate(encoder_layers(params)):
      for way, cell in layer.items():
        named |= _cell_to_torch(f"layer_{i}/{way}", cell, f"_l{i}{ends[way]}")
  _cell_weights(named)
  return {prefix + name: np.array(a, order="C") for name, a in named.items()}


def _cell_weights(arrays):
  """The arrays of each cell by its suffix, such as "_l0_reverse"; names and shapes are checked."""
  has = lambda part: any(name.startswith(part) for name in arrays)
  depth = sum(name.startswith("weight_ih_l") and name.count("_") == 2 for name in arrays)
  ways = ["", "_reverse"] if any(name.endswith("_reverse") for name in arrays) else [""]
  suffixes = [f"_l{i}{way}" for i in range(depth) for way in ways] or [""]
  parts = ["weight_ih", "weight_hh"]
  parts += ["bias_ih", "bias_hh"] if has("bias_") else []
  parts += ["weight_hr"] if has("weight_hr") else []
  expected = {part + suffix for suffix in suffixes for part in parts}
  if expected != arrays.keys():
    missing, unknown = sorted(expected - arrays.keys()), sorted(arrays.keys() - expected)
    raise InvalidInputError(
      f"{len(suffixes)} cells should have {', '.join(parts)} each. Missing: "
      f"{', '.join(missing) or 'none'}. Unknown: {', '.join(unknown) or 'none'}"
    )
  cells = {s: {p: as_float_array(p + s, arrays[p + s]) for p in parts} for s in suffixes}

  first = cells[suffixes[0]]
  D, H = matrix_size(first["weight_ih"], 1), matrix_size(first["weight_hh"], 1)
  C = matrix_size(first["weight_hr"], 1) if has("weight_hr") else H
  G = infer_num_gates("weight_hh" + suffixes[0], matrix_size(first["weight_hh"], 0), C)
  if has("weight_hr") and not (G == 4 and H < C):
    raise InvalidInputError(
      f"a projection, weight_hr, is of an LSTM, and onto less than its width: got {CELL_NAMES[G]} whose "
      f"width of {C} becomes {H}"
    )
  for i, (suffix, weights) in enumerate(cells.items()):
    below = D if i < len(ways) else len(ways) * H
    shapes = dict(weight_ih=(G * C, below), weight_hh=(G * C, H), weight_hr=(H, C))
    for part, a in weights.items():
      check_shape(part + suffix, a, shapes.get(part, (G * C,)))
  return cells


def _cell_from_torch(weights: dict[str, Array]) -> Params:
  """The parameters of a cell."""
  params = {"W": weights["weight_ih"].T, "U": weights["weight_hh"].T}
  if "weight_hr" in weights:
    params["P"] = weights["weight_hr"].T
  none = jnp.zeros_like(params["U"][0])
  outer, inside = (weights.get(name, none) for name in ("bias_ih", "bias_hh"))
  gru = "P" not in params and len(outer) == 3 * len(params["U"])
  return params | (merge_gru_biases(outer, inside) if gru else {"b": outer + inside})


def _cell_to_torch(location: str, params: Params, suffix: str) -> dict[str, Array]:
  """The weights of a cell, by torch's names."""
  params, G = validate_cell_params(location, params, "b_hn", "P")
  if G == 3 and "b_hn" not in params:
    raise InvalidInputError(
      f"{location} has three blocks but no b_hn. Is it gru(reset='before') or lstm(coupled=True)? "
      "PyTorch has neither"
    )
  weights = {"weight_ih": params["W"].T, "weight_hh": params["U"].T}
  if "P" in params:
    weights["weight_hr"] = params["P"].T
  weights |= {"bias_ih": params["b"], "bias_hh": recurrent_bias(params)}
  return {part + suffix: a for part, a in weights.items()}

"""Helpers for converting weights: validation of arrays, cells and layers; GRU biases."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, InvalidInputError, Params

CELL_NAMES = {1: "a vanilla cell", 3: "a GRU", 4: "an LSTM"}


def as_float_array(name: str, value: Any) -> Array:
  """Convert a value to a floating point array, at least float32 so that sums of biases are exact.

  Args:
    name: name of the value in error messages.
    value: anything that `numpy.asarray` accepts.

  Raises:
    InvalidInputError: the value is not a floating point array.
  """
  try:
    array = jnp.asarray(value if isinstance(value, jax.Array) else np.asarray(value))
  except (TypeError, ValueError, RuntimeError) as error:
    raise InvalidInputError(
      f"{name} cannot be read as an array: {error}. If it is a tensor, use .detach().cpu().float()"
    ) from error
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise InvalidInputError(f"{name} must be floating point; got {array.dtype}. Is it quantized?")
  return array.astype(accumulation_dtype(array.dtype))


def matrix_size(value: Array, axis: int) -> int:
  """Return the size of a matrix along an axis. For other arrays return 0, so later checks fail."""
  return value.shape[axis] if value.ndim == 2 else 0


def infer_num_gates(name: str, total: int, gate_size: int) -> int:
  """Return G, the number of gates of width `gate_size` in a recurrent matrix of width `total`.

  Raises:
    InvalidInputError: total / gate_size is not the number of gates of any cell.
  """
  G, rest = divmod(total, gate_size) if gate_size else (0, 0)
  if rest or G not in CELL_NAMES:
    gate_numbers = ", ".join(f"{number} for {cell}" for number, cell in CELL_NAMES.items())
    raise InvalidInputError(
      f"{name} must be G times {gate_size} wide, where G is {gate_numbers}; got {total}"
    )
  return G


def check_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
  """Raise InvalidInputError if the shape of an array differs from `shape`."""
  if value.shape != shape:
    raise InvalidInputError(
      f"{name} must have shape {shape} to match the other weights; got {value.shape}"
    )


def validate_cell_params(location: str, params: Params, *optional: str) -> tuple[Params, int]:
  """Validate the parameters of a cell; return them as arrays, and the number of gates.

  Args:
    location: name of the cell in error messages.
    params: W, U, b and any of `optional`.
    optional: names of parameters that the cell may have.

  Raises:
    InvalidInputError: a parameter is missing, unknown or not a floating point array; shapes do not
      match; b_hn does not belong to a GRU.
  """
  required = {"W", "U", "b"}
  if not isinstance(params, Mapping):
    raise InvalidInputError(
      f"{location} must be parameters, a mapping; got {type(params).__name__}"
    )
  if not required <= params.keys() <= required.union(optional):
    raise InvalidInputError(
      f"{location} must have W, U and b, and optionally {' or '.join(optional)}; got "
      f"{sorted(params)}. Is it a cell that only rnnjax has?"
    )
  params = {name: as_float_array(f"{location}/{name}", value) for name, value in params.items()}
  D, H = matrix_size(params["W"], 0), matrix_size(params["U"], 0)
  C = matrix_size(params["P"], 0) if "P" in params else H
  G = infer_num_gates(f"{location}/U", matrix_size(params["U"], 1), C)
  shapes = {"W": (D, G * C), "U": (H, G * C), "b": (G * C,), "P": (C, H), "b_hn": (H,)}
  for name, value in params.items():
    check_shape(f"{location}/{name}", value, shapes[name])
  if "b_hn" in params and G != 3:
    raise InvalidInputError(
      f"{location} has the b_hn of a GRU, but the width of U is that of {CELL_NAMES[G]}"
    )
  return params, G


def encoder_layers(params: Params) -> list[dict[str, Params]]:
  """Return the parameters of each layer of a stack or of a single layer, lowest layer first.

  Raises:
    InvalidInputError: a layer is not {"forward": cell parameters}, optionally with "backward".
  """
  layers = [params]
  if "layer_0" in params:
    layers = [params.get(f"layer_{i}") for i in range(len(params))]
  for i, layer in enumerate(layers):
    names = sorted(layer) if isinstance(layer, Mapping) else None
    if names not in (["forward"], ["backward", "forward"]):
      raise InvalidInputError(
        f"layer_{i} must have forward, or forward and backward; got {names}. Pass only the "
        "encoder's parameters of a larger model; a learned initial carry cannot be converted"
      )
  return layers


def merge_gru_biases(bias_ih: Array, bias_hh: Array) -> Params:
  """Merge the input and recurrent biases [3H] of a GRU into {"b": [3H], "b_hn": [H]}.

  For the gates r and z, the two biases are added. The recurrent bias b_hn of the candidate n stays
  separate, because the reset gate multiplies b_hn.
  """
  H = len(bias_hh) // 3
  return {"b": bias_ih.at[: 2 * H].add(bias_hh[: 2 * H]), "b_hn": bias_hh[2 * H :]}


def recurrent_bias(params: Params) -> Array:
  """Return the recurrent bias [GH] of a cell: zeros, except for the b_hn of a GRU at the end."""
  b, b_hn = params["b"], params.get("b_hn", jnp.zeros(0))
  return jnp.zeros_like(b).at[len(b) - len(b_hn) :].set(b_hn)

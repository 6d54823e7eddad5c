"""What weights of every origin share: arrays, cells and layers that are checked, a GRU's biases."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, InvalidInputError, Params

CELL_NAMES = {1: "a vanilla cell", 3: "a GRU", 4: "an LSTM"}


def as_float_array(name: str, value: Any) -> Array:
  """Whatever numpy takes, as float32 or wider, so that a sum of biases loses nothing.

  Raises:
    BadInput: it is no array of floating numbers.
  """
  try:
    made = jnp.asarray(value if isinstance(value, jax.Array) else np.asarray(value))
  except (TypeError, ValueError, RuntimeError) as error:
    raise InvalidInputError(
      f"{name} cannot be read as an array ({error}); a tensor can, by .detach().cpu().float()"
    ) from error
  if not jnp.issubdtype(made.dtype, jnp.floating):
    raise InvalidInputError(f"{name} must be floating numbers; got {made.dtype}. Is it quantised?")
  return made.astype(accumulation_dtype(made.dtype))


def matrix_size(value: Array, axis: int) -> int:
  """The length of a matrix along an axis; 0, which no check lets through, of anything else."""
  return value.shape[axis] if value.ndim == 2 else 0


def infer_num_gates(name: str, total: int, gate_size: int) -> int:
  """G, the blocks of width `one` that make the `total` width of a recurrent matrix.

  Raises:
    BadInput: no cell has so many.
  """
  G, rest = divmod(total, gate_size) if gate_size else (0, 0)
  if rest or G not in CELL_NAMES:
    kinds = ", ".join(f"{G} for {kind}" for G, kind in CELL_NAMES.items())
    raise InvalidInputError(
      f"{name} must be G times {gate_size} wide, where G is {kinds}; got {total}"
    )
  return G


def check_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
  """Raises BadInput where the value has another shape."""
  if value.shape != shape:
    raise InvalidInputError(f"{name} must have shape {shape} to suit the others; got {value.shape}")


def validate_cell_params(location: str, params: Params, *optional: str) -> tuple[Params, int]:
  """The parameters of a cell, W, U, b and those of the optional ones that it has; and its G.

  Raises:
    BadInput: one is missing, unknown, no array, or of a shape that does not suit the others.
  """
  needed = {"W", "U", "b"}
  if not isinstance(params, Mapping):
    raise InvalidInputError(
      f"{location} must be parameters, a mapping; got {type(params).__name__}"
    )
  if not needed <= params.keys() <= needed.union(optional):
    raise InvalidInputError(
      f"{location} must have W, U and b, and beside them {' or '.join(optional)} at most; got "
      f"{sorted(params)}. Is it of a cell that only rnnjax has?"
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
      f"{location} has a GRU's b_hn, but by the width of U it is {CELL_NAMES[G]}"
    )
  return params, G


def encoder_layers(params: Params) -> list[dict[str, Params]]:
  """The layers of an encoder, the lowest first, from the parameters of a stack or of one layer.

  Raises:
    BadInput: one is not {"forward": params of a cell}, with "backward" or without.
  """
  found = [params]
  if "layer_0" in params:
    found = [params.get(f"layer_{i}") for i in range(len(params))]
  for i, layer in enumerate(found):
    names = sorted(layer) if isinstance(layer, Mapping) else None
    if names not in (["forward"], ["backward", "forward"]):
      raise InvalidInputError(
        f"layer_{i} must have forward, or forward and backward; got {names}. Of a larger model "
        "give the encoder's parameters alone; a learned start cannot come along"
      )
  return found


def merge_gru_biases(bias_ih: Array, bias_hh: Array) -> Params:
  """The biases [3H] beside x W and h U of a GRU: added, save for the candidate's inner one."""
  H = len(bias_hh) // 3
  return {"b": bias_ih.at[: 2 * H].add(bias_hh[: 2 * H]), "b_hn": bias_hh[2 * H :]}


def recurrent_bias(params: Params) -> Array:
  """The bias [GH] beside h U that leaves b beside x W: zeros, then a GRU's b_hn."""
  b, last = params["b"], params.get("b_hn", jnp.zeros(0))
  return jnp.zeros_like(b).at[len(b) - len(last) :].set(last)

"""Safetensors files: named arrays in a format that cannot contain code.

Convert a PyTorch file to the parameters of an encoder, and back:

    params = from_torch(safetensors.load("lstm.safetensors"))
    safetensors.save("lstm.safetensors", to_torch(params))
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rnnjax.types import InvalidInputError

CONVERT_HINT = (
  "a pickle, such as .pt or .pth, can run any code when it is read. Convert it where torch is: "
  "safetensors.torch.save_file(torch.load('{0}', weights_only=True), '{1}.safetensors')"
)


def load(path: str) -> dict[str, np.ndarray]:
  """Load {name: array} from a file. bfloat16 arrays have the dtype ml_dtypes.bfloat16, as in JAX.

  Raises:
    InvalidInputError: the file does not exist, does not end in .safetensors, is of another format,
      is cut off, or contains 8-bit floating point numbers.
  """
  file = _checked_path(path)
  try:
    return load_file(file)
  except (SafetensorError, OSError, AttributeError) as error:  # numpy has no attribute float8_e5m2
    raise InvalidInputError(f"{file} cannot be read: {error}. Is the download whole?") from error


def save(path: str, arrays: Mapping[str, Any]) -> None:
  """Save {name: array} to a file. An array is any value that `numpy.asarray` accepts.

  Raises:
    InvalidInputError: the file cannot be written or does not end in .safetensors; an array has an
      unsupported dtype.
  """
  file = _checked_path(path)
  # safetensors ignores strides, so a transposed array must be copied first.
  arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
  try:
    save_file(arrays, file)
  except (SafetensorError, OSError) as error:
    raise InvalidInputError(f"{file} cannot be written: {error}") from error


def _checked_path(path):
  """Return the expanded path; raise InvalidInputError if it does not end in .safetensors."""
  file = pathlib.Path(path).expanduser()
  if file.suffix != ".safetensors":
    raise InvalidInputError(
      f"{file} must end in .safetensors; {CONVERT_HINT.format(file.name, file.stem)}"
    )
  return file

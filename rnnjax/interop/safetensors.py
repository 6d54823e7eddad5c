"""Named arrays in a file that holds numbers and cannot hold code: *.safetensors.

From a file to an encoder, and back:

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
  """The arrays of a file by name; bfloat16 is ml_dtypes' type, which jax knows.

  Raises:
    BadInput: there is no such file, or one that is of another kind, is broken off, or holds
      floating numbers of 8 bits.
  """
  file = _checked_path(path)
  try:
    return load_file(file)
  except (SafetensorError, OSError, AttributeError) as error:  # numpy has no attribute float8_e5m2
    raise InvalidInputError(f"{file} cannot be read: {error}. Is the download whole?") from error


def save(path: str, arrays: Mapping[str, Any]) -> None:
  """Writes arrays, whatever numpy takes, to a file by name.

  Raises:
    BadInput: the file cannot be written, has another ending, or cannot hold such an array.
  """
  file = _checked_path(path)
  # The package writes memory as it lies, so what is transposed must be copied first.
  arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
  try:
    save_file(arrays, file)
  except (SafetensorError, OSError) as error:
    raise InvalidInputError(f"{file} cannot be written: {error}") from error


def _checked_path(path):
  file = pathlib.Path(path).expanduser()
  if file.suffix != ".safetensors":
    raise InvalidInputError(
      f"{file} must end in .safetensors; {CONVERT_HINT.format(file.name, file.stem)}"
    )
  return file

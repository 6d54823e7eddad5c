"""Arrays of .npy and .npz files, read without pickle and without allocating the declared size."""

import io
import math
from tokenize import TokenError

import numpy as np

from rnnjax.data.files import (
  File,
  check_declared_size,
  list_zip_files,
  read_bytes,
  reraise_decode_errors,
)
from rnnjax.types import InvalidInputError

MAX_HEADER_BYTES = 1000  # NumPy parses the header as Python; plain arrays need about 100 bytes


def read_npy(file: File) -> np.ndarray:
  """Return the array of a .npy file as a read-only view of the file's bytes.

  `numpy.load` avoids an allocation only by memory mapping, which does not work inside archives.

  Raises:
    InvalidInputError: the file is damaged, is shorter than its header declares, or has an
      unsupported dtype (supported are real numbers, booleans and text).
  """
  data = read_bytes(file)
  stream = io.BytesIO(data)
  # NumPy raises SyntaxError or TokenError if the header is not Python.
  with reraise_decode_errors(
    file, "as an array that numpy.save wrote", "Was it cut off?", SyntaxError, TokenError
  ):
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
      raise ValueError(f"format version {version} is for arrays with fields")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream, MAX_HEADER_BYTES)
    if dtype.kind not in "biufU" or min(shape, default=0) < 0:
      raise InvalidInputError(
        f"{file} must hold numbers or text, not Python objects or fields; got {dtype} {shape}"
      )
    check_declared_size(file, math.prod(shape) * dtype.itemsize, len(data) - stream.tell())
    values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return values.reshape(shape, order="F" if fortran_order else "C")


def read_npz(file: File) -> dict[str, np.ndarray]:
  """Return the arrays of a .npz file as {name: array}.

  Raises:
    InvalidInputError: the file is not a .zip archive, its unpacked size exceeds the limit, or
      `read_npy` cannot read one of its arrays.
  """
  return {
    name.removesuffix(".npy"): read_npy(member) for name, member in list_zip_files(file).items()
  }

"""Arrays as numpy saves them, .npy and .npz, read without pickle.

`numpy.load` makes an array of the size that a file claims before it reads one. Here an array is the
bytes that are there, or there is none.
"""

import io
import math
from tokenize import TokenError

import numpy as np

from rnnjax.data.files import File, list_zip_files, read_bytes, reraise_decode_errors
from rnnjax.types import InvalidInputError

MAX_HEADER_BYTES = (
  1000  # bytes of a head, which numpy parses as Python; an array without fields has about 100
)


def read_npy(file: File) -> np.ndarray:
  """The array of a .npy file: of numbers, truth values or text; read-only.

  Raises:
    BadInput: it is damaged, of Python objects or of fields, or shorter or longer than it says.
  """
  data = read_bytes(file)
  stream = io.BytesIO(data)
  raised = SyntaxError, TokenError  # by the parser of Python, beside what all decoders raise
  with reraise_decode_errors(file, "as an array that numpy.save wrote", "Was it cut off?", *raised):
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
      raise ValueError(f"it is of version {version}, which is for arrays with fields")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(stream, MAX_HEADER_BYTES)
    promised, there = math.prod(shape) * kind.itemsize, len(data) - stream.tell()
    if kind.kind not in "biufU" or promised != there or min(shape, default=0) < 0:
      raise InvalidInputError(
        f"{file} must hold numbers or text, {promised} bytes of {kind} {shape}; it holds {there}. "
        "Was it cut off, or is it of Python objects?"
      )
    made = np.frombuffer(data, kind, offset=stream.tell()) if promised else np.empty(0, kind)
    return made.reshape(shape, order="F" if fortran else "C")


def read_npz(file: File) -> dict[str, np.ndarray]:
  """The arrays of a .npz file by their names.

  Raises:
    BadInput: as for `array`; it is no archive, or one that unpacks to too much.
  """
  return {
    name.removesuffix(".npy"): read_npy(packed) for name, packed in list_zip_files(file).items()
  }

"""Numeric cell arrays of MATLAB files, versions 5 to 7.2.

A file is a header and a sequence of elements. An element is a type code, a size in bytes, and the
content. A matrix is an element that contains other elements: its class, shape, name, and values.
The values are numbers or, in a cell array, matrices ("MAT-File Format", The MathWorks).

Arrays are views of the file's bytes, so no memory is allocated for the sizes that a file declares.
`scipy.io.loadmat` (1.17.1) allocates the declared number of cells. On 4 of 6,000 damaged files, it
crashed the process with SIGSEGV or SIGBUS.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

from rnnjax.data.files import File, max_unpacked_bytes, read_bytes, reraise_decode_errors

HEADER_SIZE = 128  # bytes
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}  # the last two bytes of the header
MATRIX_TYPE, COMPRESSED_TYPE = 14, 15
NUMBER_DTYPES = dict(zip((1, 2, 3, 4, 5, 6, 7, 9, 12, 13), "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split()))
CELL_CLASS, NUMERIC_CLASSES = 1, range(6, 16)  # in the lowest byte of the array flags
COMPLEX_FLAG = 0x800


def read_cells(file: File, names: Collection[str]) -> dict[str, list[np.ndarray | None]]:
  """Return the cell arrays with the given names; variables of other types are omitted.

  Args:
    file: a MATLAB file of version 5 to 7.2.
    names: names of variables.

  Returns:
    {name: list of cells}, in MATLAB's (column-major) order. A cell of real numbers is an array, a
    nested cell array is a list, and any other cell is None.

  Raises:
    InvalidInputError: the file is damaged, of another format, or unpacks to more than the limit.
  """
  data, cell_arrays = read_bytes(file), {}
  hint = "Was it cut off, or saved as version 7.3?"
  with reraise_decode_errors(file, "as a MATLAB file", hint):
    byte_order = BYTE_ORDERS.get(data[HEADER_SIZE - 2 : HEADER_SIZE])
    if byte_order is None:
      raise ValueError("its header does not state a byte order")
    unpack_limit = max_unpacked_bytes(len(data))
    for type_code, content in _iter_elements(memoryview(data)[HEADER_SIZE:], byte_order):
      if type_code == COMPRESSED_TYPE:
        content = _decompress(content, unpack_limit)
        unpack_limit -= len(content)
        ((type_code, content),) = _iter_elements(content, byte_order)
      if type_code == MATRIX_TYPE:
        name, value = _parse_matrix(content, byte_order, {*names})
        if isinstance(value, list):
          cell_arrays[name] = value
  return cell_arrays


def _decompress(content: memoryview, max_bytes: int) -> memoryview:
  decompressor = zlib.decompressobj()
  unpacked = decompressor.decompress(content, max_bytes + 1)
  if len(unpacked) > max_bytes or not decompressor.eof:
    raise ValueError(f"a compressed variable is cut off, or unpacks to more than {max_bytes} bytes")
  return memoryview(unpacked)


def _iter_elements(data: memoryview, byte_order: str) -> Iterator[tuple[int, memoryview]]:
  """Yield the type code and the content of each element."""
  while data:
    type_code, size = struct.unpack_from(f"{byte_order}II", data)
    start = 8
    if type_code >> 16:  # small element: size and type share a word, followed by up to 4 bytes
      type_code, size, start = type_code & 0xFFFF, type_code >> 16, 4
    end = start + size
    if end > len(data):
      raise ValueError(f"an element declares {size} bytes, and {len(data) - start} are left")
    yield type_code, data[start:end]
    # Elements are padded to multiples of 8 bytes, except compressed ones.
    data = data[end if type_code == COMPRESSED_TYPE else -(-end // 8) * 8 :]


def _parse_matrix(
  content: memoryview, byte_order: str, names: Collection[str] | None = None
) -> tuple[str, np.ndarray | list | None]:
  """Return (name, value) of a matrix. The value is an array, a list of cells, or None otherwise.

  The value is also None if `names` is given and does not contain the name.
  """
  if not content:  # an empty matrix may have no content at all
    return "", np.empty((0, 0))
  (_, flags), (_, dimensions), (_, name), *values = _iter_elements(content, byte_order)
  (flags,) = struct.unpack_from(f"{byte_order}I", flags)
  name = bytes(name).decode("latin-1")
  shape = np.frombuffer(dimensions, f"{byte_order}i4").tolist()
  if min(shape, default=0) < 0:
    raise ValueError(f"{name!r} has shape {shape}")
  if (names is not None and name not in names) or flags & COMPLEX_FLAG:
    return name, None
  if flags & 0xFF == CELL_CLASS:
    if len(values) != math.prod(shape) or any(code != MATRIX_TYPE for code, _ in values):
      raise ValueError(f"{name!r} must have {math.prod(shape)} cells; it has {len(values)}")
    return name, [_parse_matrix(cell, byte_order)[1] for _, cell in values]
  if flags & 0xFF in NUMERIC_CLASSES:
    ((type_code, numbers),) = values
    if type_code not in NUMBER_DTYPES:
      raise ValueError(f"{name!r} has the unknown number type {type_code}")
    dtype = byte_order + NUMBER_DTYPES[type_code]
    return name, np.frombuffer(numbers, dtype).reshape(shape, order="F")
  return name, None

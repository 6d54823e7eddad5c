"""Cells of numbers in MATLAB files of version 5 to 7.2.

`scipy.io.loadmat` makes arrays of the size that a file claims before it reads them. Here an array
is the bytes that are there, or there is none. A file is a head and then elements, each of them a
type, a number of bytes and these; a matrix is an element that holds others: its class, its shape,
its name, and then its numbers or, for a cell, matrices ("MAT-File Format", The MathWorks).
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

from rnnjax.data.files import File, max_unpacked_bytes, read_bytes, reraise_decode_errors

HEADER_SIZE = 128  # bytes
NUMBER_DTYPES = dict(zip((1, 2, 3, 4, 5, 6, 7, 9, 12, 13), "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split()))
MATRIX_TYPE, COMPRESSED_TYPE = 14, 15
CELL_CLASS, NUMERIC_CLASSES, COMPLEX_FLAG = (
  1,
  range(6, 16),
  0x800,
)  # classes, and a flag beside them

MatValue = np.ndarray | list | None  # of numbers, of cells, or of what is neither


def read_cells(file: File, names: Collection[str]) -> dict[str, list[np.ndarray | None]]:
  """The arrays in the cells of those names, in MATLAB's order; None for what is not of numbers.

  Raises:
    BadInput: it is no such file, or damaged.
  """
  data, names, found = read_bytes(file), {*names}, {}
  with reraise_decode_errors(
    file, "as a MATLAB file", "Was it cut off, or saved as version 7.3?", KeyError
  ):
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER_SIZE - 2 : HEADER_SIZE])
    if not order:
      raise ValueError("its head tells no order of bytes")
    left = max_unpacked_bytes(len(data))
    for kind, content in _iter_elements(memoryview(data)[HEADER_SIZE:], order):
      if kind == COMPRESSED_TYPE:
        content = _decompress(content, left)
        left -= len(content)
        ((kind, content),) = _iter_elements(content, order)
      if kind == MATRIX_TYPE:
        name, value = _parse_matrix(content, order, names)
        if isinstance(value, list):
          found[name] = value
  return found


def _decompress(content: memoryview, max_bytes: int) -> memoryview:
  made = zlib.decompressobj()
  inflated = made.decompress(content, max_bytes + 1)
  if len(inflated) > max_bytes or not made.eof:
    raise ValueError(f"what is compressed must be whole, and unpack to {max_bytes} bytes at most")
  return memoryview(inflated)


def _iter_elements(data: memoryview, byte_order: str) -> Iterator[tuple[int, memoryview]]:
  """The elements that follow one another: their types and contents."""
  while data:
    (kind, size), start = struct.unpack_from(f"{byte_order}II", data), 8
    if kind >> 16:  # no more than four bytes, which stand beside the type
      kind, size, start = kind & 0xFFFF, kind >> 16, 4
    end = start + size
    if end > len(data):
      raise ValueError(f"an element promises {size} bytes, and {len(data) - start} are left")
    yield kind, data[start:end]
    data = data[end if kind == COMPRESSED_TYPE else -(-end // 8) * 8 :]


def _parse_matrix(
  content: memoryview, byte_order: str, names: Collection[str] | None = None
) -> tuple[str, MatValue]:
  """The name of a matrix, and what it holds; nothing is made where it is none of the names."""
  if not content:
    return "", np.empty((0, 0))
  (_, flags), (_, dims), (_, name), *rest = _iter_elements(content, byte_order)
  (word,), name = struct.unpack_from(f"{byte_order}I", flags), bytes(name).decode("latin-1")
  shape = np.frombuffer(dims, f"{byte_order}i4").tolist()
  if min(shape, default=0) < 0:
    raise ValueError(f"{name!r} is of shape {shape}")
  if (names is not None and name not in names) or word & COMPLEX_FLAG:
    return name, None
  if word & 0xFF == CELL_CLASS:
    if len(rest) != math.prod(shape) or any(kind != MATRIX_TYPE for kind, _ in rest):
      raise ValueError(f"{name!r} must have {math.prod(shape)} cells; it has {len(rest)}")
    return name, [_parse_matrix(inner, byte_order)[1] for _, inner in rest]
  if word & 0xFF in NUMERIC_CLASSES:
    ((kind, numbers),) = rest
    return name, np.frombuffer(numbers, byte_order + NUMBER_DTYPES[kind]).reshape(shape, order="F")
  return name, None

"""What the arrays of a checkpoint promise, looked at before they are read.

tensorstore takes the memory that an array's description asks for, and where there is not so much
the process ends at once.
"""

import json
import math
import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
import tensorstore as ts

from rnnjax.data.files import max_unpacked_bytes, reraise_decode_errors
from rnnjax.types import InvalidInputError

MAX_COMPRESSION = 8  # how far numbers that were learnt may be packed, however many they are
METADATA_FILES = (
  ".zarray",
  "zarr.json",
)  # of descriptions; the second is of a version that is not written


def check_array_sizes(folder: pathlib.Path):
  """Looks at every description of an array in a folder, in a file of its own or in a store.

  Raises:
    BadInput: one is not of numbers, or they promise much more than the files could hold; a file or
      a folder is a link, which could lead anywhere.
  """
  paths = [folder, *folder.rglob("*")]
  if any(path.is_symlink() for path in paths) or not folder.is_dir():
    raise InvalidInputError(f"{folder} must be a folder of files and folders, without links")
  there = sum(path.stat().st_size for path in paths if path.is_file())
  with reraise_decode_errors(folder, "as arrays", "Is it damaged?", TypeError):
    promised = sum(map(_array_num_bytes, _read_array_metadata(paths)))
  if promised > max(max_unpacked_bytes(there), MAX_COMPRESSION * there):
    raise InvalidInputError(
      f"{folder} promises arrays of {promised} bytes, and its files have {there}"
    )


def _read_array_metadata(paths: list[pathlib.Path]) -> Iterator[bytes]:
  yield from (path.read_bytes() for path in paths if path.name in METADATA_FILES)
  for manifest in (path for path in paths if path.name == "manifest.ocdbt"):
    base = {"driver": "file", "path": f"{manifest.parent}/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    found = [key for key in store.list().result() if key.decode("latin-1").endswith(METADATA_FILES)]
    yield from (store.read(key).result().value for key in found)


def _array_num_bytes(metadata: bytes) -> int:
  """The bytes of an array, or of the chunks that it is read in if these are larger.

  Other ways to pack it than that in which it is written may be told to take any memory.
  """
  match json.loads(metadata):
    case {
      "shape": [*shape],
      "chunks": [*chunks],
      "dtype": str(kind),
      "filters": None,
      "compressor": {"id": "zstd"} | None,
    }:
      kind = jnp.dtype(kind)
      numbers = jnp.issubdtype(kind, jnp.number) or kind.kind == "b"
      if numbers and all(type(n) is int and n >= 0 for n in shape + chunks):
        return max(math.prod(shape), math.prod(chunks)) * kind.itemsize
  raise ValueError(f"a description is not of an array of numbers: {metadata[:60]!r}")

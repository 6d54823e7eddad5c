"""Files as data sets come: plain or .gz, in a folder or a .zip or .tar archive.

Files may be a stranger's. Nothing is extracted: what is packed is unpacked in memory, piece by
piece and up to a limit; nothing is made by the size that a file claims to have.
"""

import contextlib
import functools
import gzip
import io
import logging
import pathlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from rnnjax.types import InvalidInputError

DATASETS = ("auto", "embedded", "files")
UNPACK_LIMIT = 2 << 30  # bytes that a .gz or all files of an archive may unpack to
MAX_COMPRESSION_RATIO, MIN_UNPACK_LIMIT = (
  200,
  4 << 20,
)  # how often its own size, and how many bytes it may unpack to anyway
CHUNK_SIZE = 1 << 20  # bytes that are unpacked at once
DECODE_ERRORS = (  # what is raised by those who decode damaged bytes; never MemoryError
  EOFError,
  OSError,
  OverflowError,
  RuntimeError,
  ValueError,
  struct.error,
  zlib.error,
  tarfile.TarError,
  zipfile.BadZipFile,
)


class ArchiveMember(NamedTuple):
  """A file in an archive; like a path it has name and parent, opens, and prints as it lies."""

  path: pathlib.PurePath
  opener: Callable[[], BinaryIO]

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def parent(self) -> pathlib.PurePath:
    return self.path.parent

  def open(self, mode: str = "rb") -> BinaryIO:
    return self.opener()

  def __str__(self) -> str:
    return str(self.path)


File = pathlib.Path | ArchiveMember


def use_files(dataset: str, data_dir: str, fallback: str, hint: str) -> bool:
  """Whether a data set is read from files: "files", or "auto" where there is a place to read.

  Else it is the embedded one, and "auto" warns: "training on SMALL; --data_dir=REAL".

  Raises:
    BadInput: the data set is not one of DATASETS.
  """
  if dataset not in DATASETS:
    raise InvalidInputError(f"dataset must be one of {DATASETS}; got {dataset!r}")
  if dataset == "files" or (dataset == "auto" and data_dir):
    return True
  if dataset == "auto":
    logging.warning("training on %s; --data_dir=%s", fallback, hint)
  return False


@contextlib.contextmanager
def reraise_decode_errors(
  file: object, action: str, hint: str = "Was it cut off?", *errors: type[Exception]
) -> Iterator[None]:
  """Turns what is raised on damaged bytes, DAMAGED or others, into BadInput: "FILE cannot be read
  KIND: ... ADVICE"."""
  try:
    yield
  except InvalidInputError:
    raise
  except (*DECODE_ERRORS, *errors) as error:
    raise InvalidInputError(f"{file} cannot be read {action}: {error}. {hint}") from None


def max_unpacked_bytes(packed_size: int, limit: int = 0) -> int:
  """The bytes that so many packed ones may become: what grows beyond is made to fill the memory."""
  return min(limit or UNPACK_LIMIT, max(MIN_UNPACK_LIMIT, MAX_COMPRESSION_RATIO * packed_size))


class LimitedGzipFile(gzip.GzipFile):
  """What a .gz of so many bytes unpacks to, up to the most it may; beyond, reading is BadInput."""

  def __init__(self, file: object, stream: BinaryIO, packed_size: int, limit: int = 0):
    super().__init__(fileobj=stream)
    self.file, self.max_bytes = file, max_unpacked_bytes(packed_size, limit)

  def read(self, size: int = -1) -> bytes:
    piece = super().read(CHUNK_SIZE if size < 0 else min(size, CHUNK_SIZE))
    if self.tell() > self.max_bytes:
      raise InvalidInputError(
        f"{self.file} must unpack to {self.max_bytes} bytes at most; a plain file may hold more"
      )
    return piece


def list_files(path: str | pathlib.Path) -> list[File]:
  """The files of a folder, sorted, or of an archive (.zip, .tar, .tar.gz, .tgz) and all folders in
  it, in its own order.

  Raises:
    BadInput: there is no such folder or archive; the archive is damaged, or holds too much.
  """
  place = pathlib.Path(path).expanduser()
  if path and place.is_dir():  # "" would be the folder one is in
    return sorted(file for file in place.iterdir() if file.is_file())
  if not place.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")) or not place.is_file():
    raise InvalidInputError(
      f"--data_dir must be a folder or a .zip or .tar archive that exists; got {str(path)!r}"
    )
  with reraise_decode_errors(place, "as an archive"):
    made = _zip_entries(place, place) if place.suffix == ".zip" else _tar_entries(place)
  return [ArchiveMember(place / name, opened) for name, opened in made]


def list_zip_files(file: File) -> dict[str, ArchiveMember]:
  """The files of a .zip by another name, which may itself be packed.

  Raises:
    BadInput: as for `contents`.
  """
  with reraise_decode_errors(file, "as an archive"):
    found = _zip_entries(file, io.BytesIO(read_bytes(file)))
    return {
      name: ArchiveMember(pathlib.PurePath(f"{file}") / name, opened) for name, opened in found
    }


def _zip_entries(path, source):
  archive = zipfile.ZipFile(source)
  files = [info for info in archive.infolist() if not info.filename.endswith("/")]
  archive.fp.seek(0, io.SEEK_END)
  limit, size = max_unpacked_bytes(archive.fp.tell()), sum(info.file_size for info in files)
  # zipfile reads no more of a file than it promises; what is packed in other ways than these it
  # would not unpack piece by piece.
  known = all(info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in files)
  if size > limit or not known:
    raise InvalidInputError(
      f"{path} must hold {limit} bytes at most, stored or deflated; it promises {size}. "
      "A folder of plain files may hold more"
    )
  return [(info.filename, functools.partial(archive.open, info)) for info in files]


def _tar_entries(path):
  data = path.read_bytes() if path.suffix == ".tar" else _gunzip(path, path.read_bytes())
  archive, files = tarfile.open(fileobj=io.BytesIO(data), mode="r:"), []
  for info in archive:
    if info.size < 0:  # tarfile would go back, and read it again without end
      raise tarfile.ReadError(f"{info.name!r} has {info.size} bytes")
    if info.isreg() and not info.issparse():  # a sparse one may promise any size
      files.append((info.name, functools.partial(archive.extractfile, info)))
  return files


def read_bytes(file: File) -> bytes:
  """What a file holds, unpacked if its name ends in .gz.

  Raises:
    BadInput: it is damaged, or holds too much.
  """
  with reraise_decode_errors(file, "to its end"):
    with file.open("rb") as raw:
      data = b"".join(iter(lambda: raw.read(CHUNK_SIZE), b""))
    return _gunzip(file, data) if file.name.lower().endswith(".gz") else data


def _gunzip(file, data):
  with LimitedGzipFile(file, io.BytesIO(data), len(data)) as stream:
    return b"".join(iter(stream.read, b""))


def read_text(file: File, hint: str = "Is it in another encoding?") -> str:
  """A file as text, without a byte order mark.

  Raises:
    BadInput: as for `read_bytes`; it is not UTF-8, and then the message ends in the advice.
  """
  try:
    return read_bytes(file).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    *before, line = error.object[: error.start].split(b"\n")
    where = f"{file}:{len(before) + 1} is not UTF-8: {error.reason} at byte {len(line)} of the line"
    raise InvalidInputError(f"{where}. {hint}") from None


def read_lines(file: File) -> Iterator[tuple[str, str]]:
  """("file:line", line) of each line as `read_text` reads them; only line feeds end one."""
  text = read_text(file).removesuffix("\n")
  return ((f"{file}:{n}", line) for n, line in enumerate(text.split("\n"), 1))

"""Reading of plain, gzipped and archived data files, with a limit on the unpacked size.

Archives are never extracted: their members are unpacked in memory, in chunks. A size that a file
declares is checked before memory is allocated for it.
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
UNPACK_LIMIT = 2 << 30  # bytes that a .gz file, or all members of an archive, may unpack to
MAX_COMPRESSION_RATIO = 200  # unpacked bytes for each packed byte
MIN_UNPACK_LIMIT = 4 << 20  # bytes that a file may unpack to at any ratio
CHUNK_SIZE = 1 << 20  # bytes
DECODE_ERRORS = (  # raised by decoders on damaged bytes; MemoryError is excluded
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
  """A file in an archive, with the subset of the `pathlib.Path` interface that readers use.

  Attributes:
    path: the archive's path, followed by the member's name.
    opener: opens the member for reading.
  """

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
  """Return whether to read a data set from files (True) or use the embedded data set (False).

  Args:
    dataset: "files", "embedded", or "auto" (files if `data_dir` is non-empty, else embedded).
    data_dir: folder or archive of the files.
    fallback: description of the embedded data set, for the warning that "auto" logs.
    hint: value of --data_dir to suggest in that warning.

  Raises:
    InvalidInputError: `dataset` is not one of DATASETS.
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
  """Context manager that re-raises DECODE_ERRORS and `errors` as InvalidInputError.

  The message is "FILE cannot be read ACTION: ERROR. HINT". An InvalidInputError is not changed.
  """
  try:
    yield
  except InvalidInputError:
    raise
  except (*DECODE_ERRORS, *errors) as error:
    raise InvalidInputError(f"{file} cannot be read {action}: {error}. {hint}") from None


def max_unpacked_bytes(packed_size: int, limit: int = 0) -> int:
  """Return the number of bytes that a file of `packed_size` bytes may unpack to.

  Args:
    packed_size: size of the file in bytes.
    limit: maximum number of bytes; 0 for UNPACK_LIMIT.
  """
  return min(limit or UNPACK_LIMIT, max(MIN_UNPACK_LIMIT, MAX_COMPRESSION_RATIO * packed_size))


def check_declared_size(
  file: object, declared_size: int, limit: int, hint: str = "Was it cut off?"
) -> None:
  """Raise InvalidInputError if a file declares more than `limit` bytes.

  Readers call this before they allocate memory for the declared size.
  """
  if declared_size > limit:
    raise InvalidInputError(
      f"{file} declares {declared_size} bytes; it may hold {limit} bytes at most. {hint}"
    )


class LimitedGzipFile(gzip.GzipFile):
  """A gzip stream that raises InvalidInputError when it unpacks to more than its limit."""

  def __init__(self, file: object, stream: BinaryIO, packed_size: int, limit: int = 0):
    """Open a gzip stream.

    Args:
      file: the file to name in error messages.
      stream: the compressed bytes.
      packed_size: number of compressed bytes.
      limit: maximum number of unpacked bytes; 0 for UNPACK_LIMIT.
    """
    super().__init__(fileobj=stream)
    self.file, self.max_bytes = file, max_unpacked_bytes(packed_size, limit)

  def read(self, size: int = -1) -> bytes:
    chunk = super().read(CHUNK_SIZE if size < 0 else min(size, CHUNK_SIZE))
    if self.tell() > self.max_bytes:
      raise InvalidInputError(
        f"{self.file} must unpack to {self.max_bytes} bytes at most; a plain file may hold more"
      )
    return chunk


def list_files(path: str | pathlib.Path) -> list[File]:
  """Return the files of a folder (sorted by name) or of an archive (in archive order).

  Archives are .zip, .tar, .tar.gz and .tgz; files in all folders of an archive are included.

  Raises:
    InvalidInputError: the folder or archive does not exist; the archive is damaged, or unpacks to
      more than the limit.
  """
  location = pathlib.Path(path).expanduser()
  if path and location.is_dir():  # pathlib takes "" for the current folder
    return sorted(file for file in location.iterdir() if file.is_file())
  if not location.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")) or not location.is_file():
    raise InvalidInputError(
      f"--data_dir must be a folder or a .zip or .tar archive that exists; got {str(path)!r}"
    )
  with reraise_decode_errors(location, "as an archive"):
    if location.suffix == ".zip":
      entries = _zip_entries(location, location)
    else:
      entries = _tar_entries(location)
  return [ArchiveMember(location / name, opener) for name, opener in entries]


def list_zip_files(file: File) -> dict[str, ArchiveMember]:
  """Return the files in a zip file as {name: member}. Any suffix is accepted, such as .npz.

  Raises:
    InvalidInputError: the file is damaged, or unpacks to more than the limit.
  """
  with reraise_decode_errors(file, "as an archive"):
    entries = _zip_entries(file, io.BytesIO(read_bytes(file)))
  folder = pathlib.PurePath(str(file))
  return {name: ArchiveMember(folder / name, opener) for name, opener in entries}


def _zip_entries(path: object, source) -> list[tuple[str, Callable[[], BinaryIO]]]:
  """Return (name, function that opens the member) for each member of a .zip archive."""
  archive = zipfile.ZipFile(source)
  members = [member for member in archive.infolist() if not member.filename.endswith("/")]
  # zipfile unpacks members in chunks only with these two compression methods.
  if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
    raise InvalidInputError(f"{path} must hold files that are stored or deflated")
  archive.fp.seek(0, io.SEEK_END)
  # zipfile reads at most the declared size of a member, so checking the declared sizes suffices.
  check_declared_size(
    path,
    sum(member.file_size for member in members),
    max_unpacked_bytes(archive.fp.tell()),
    "A folder of plain files may hold more",
  )
  return [(member.filename, functools.partial(archive.open, member)) for member in members]


def _tar_entries(path: pathlib.Path) -> list[tuple[str, Callable[[], BinaryIO]]]:
  """Return (name, function that opens the file) for each regular file of a .tar archive."""
  data = path.read_bytes()
  if path.suffix != ".tar":
    data = _gunzip(path, data)
  archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")
  entries = []
  for member in archive:
    if member.size < 0:  # tarfile would seek back and loop forever
      raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
    # Skip links, and sparse files, which may declare any size.
    if member.isreg() and not member.issparse():
      entries.append((member.name, functools.partial(archive.extractfile, member)))
  return entries


def read_bytes(file: File) -> bytes:
  """Return the content of a file, unpacked if its name ends in .gz.

  Raises:
    InvalidInputError: the file is damaged, or unpacks to more than the limit.
  """
  with reraise_decode_errors(file, "to its end"):
    with file.open("rb") as stream:
      data = b"".join(iter(functools.partial(stream.read, CHUNK_SIZE), b""))
    return _gunzip(file, data) if file.name.lower().endswith(".gz") else data


def _gunzip(file: object, data: bytes) -> bytes:
  with LimitedGzipFile(file, io.BytesIO(data), len(data)) as stream:
    return b"".join(iter(stream.read, b""))


def read_text(file: File, hint: str = "Is it in another encoding?") -> str:
  """Return the text of a UTF-8 file, without a byte order mark.

  Raises:
    InvalidInputError: the file is damaged, unpacks to more than the limit, or is not UTF-8, in
      which case the message ends in `hint`.
  """
  try:
    return read_bytes(file).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    *lines_before, line = error.object[: error.start].split(b"\n")
    raise InvalidInputError(
      f"{file}:{len(lines_before) + 1} is not UTF-8: {error.reason} at byte {len(line)} of the "
      f"line. {hint}"
    ) from None


def read_lines(file: File) -> Iterator[tuple[str, str]]:
  """Return an iterator over ("file:line number", line) of a text file.

  Lines are separated by "\\n" only.

  Raises:
    InvalidInputError: the file cannot be read; see `read_text`.
  """
  text = read_text(file).removesuffix("\n")
  return ((f"{file}:{number}", line) for number, line in enumerate(text.split("\n"), 1))

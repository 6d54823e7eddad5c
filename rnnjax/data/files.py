"""Files as data sets come: text or JSON lines, plain or .gz, in a folder or a .zip or .tar archive.

Nothing is extracted: what is packed is unpacked in memory, piece by piece and up to LIMIT.
"""

import functools
import gzip
import io
import json
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from rnnjax.types import BadInput

LIMIT = 2 << 30  # bytes that a .gz or all files of an archive may unpack to
PIECE = 1 << 20  # bytes that are unpacked at once
DAMAGED = (
  EOFError, OSError, RuntimeError, UnicodeError, zlib.error, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


class Packed(NamedTuple):
  """A file in an archive; like a path it has name and parent, opens, and prints as it lies."""

  path: pathlib.PurePath
  opened: Callable[[], BinaryIO]

  @property
  def name(self) -> str:
    return self.path.name

  @property
  def parent(self) -> pathlib.PurePath:
    return self.path.parent

  def open(self, mode: str = "rb") -> BinaryIO:
    return self.opened()

  def __str__(self) -> str:
    return str(self.path)


File = pathlib.Path | Packed


def contents(path: str | pathlib.Path) -> list[File]:
  """The files of a folder, sorted, or of an archive (.zip, .tar, .tar.gz, .tgz) and all folders in
  it, in its own order.

  Raises:
    BadInput: there is no such folder or archive; the archive is damaged, or holds too much.
  """
  place = pathlib.Path(path).expanduser()
  if path and place.is_dir():  # "" would be the folder one is in
    return sorted(file for file in place.iterdir() if file.is_file())
  if not place.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")) or not place.is_file():
    raise BadInput(
      f"--data_dir must be a folder or a .zip or .tar archive that exists; got {str(path)!r}"
    )
  try:
    size, known, files = (_zipped if place.suffix == ".zip" else _tarred)(place)
  except DAMAGED as error:
    raise BadInput(f"{place} cannot be read as an archive: {error}. Was it cut off?") from None
  if size > LIMIT or not known:
    raise BadInput(
      f"{place} must hold {LIMIT} bytes at most, stored or deflated; it promises {size}. "
      "A folder of plain files may hold more"
    )
  return [Packed(place / name, opened) for name, opened in files]


def _zipped(place):
  """How many bytes it promises, whether it is packed as it may be, and its files."""
  archive = zipfile.ZipFile(place)
  files = [info for info in archive.infolist() if not info.filename.endswith("/")]
  # zipfile reads no more of a file than it promises; what is packed in other ways than these it
  # would not unpack piece by piece.
  known = all(info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in files)
  opened = [(info.filename, functools.partial(archive.open, info)) for info in files]
  return sum(info.file_size for info in files), known, opened


def _tarred(place):
  mode = "r:" if place.suffix == ".tar" else "r:gz"
  archive = tarfile.open(fileobj=io.BytesIO(place.read_bytes()), mode=mode)
  files = [info for info in archive if info.isfile()]
  opened = [(info.name, functools.partial(archive.extractfile, info)) for info in files]
  return sum(info.size for info in files), True, opened


def read_bytes(file: File) -> bytes:
  """What a file holds, unpacked if its name ends in .gz.

  Raises:
    BadInput: it is damaged, or holds too much.
  """
  made, packed = bytearray(), file.name.lower().endswith(".gz")
  try:
    with file.open("rb") as raw, gzip.open(raw) if packed else raw as stream:
      while piece := stream.read(PIECE):
        made += piece
        if packed and len(made) > LIMIT:
          raise BadInput(f"{file} must unpack to {LIMIT} bytes at most; a plain file may hold more")
  except DAMAGED as error:
    raise BadInput(f"{file} cannot be read to its end: {error}. Was it cut off?") from None
  return bytes(made)


def read_text(file: File, advice: str = "Is it in another encoding?") -> str:
  """A file as text, without a byte order mark.

  Raises:
    BadInput: as for `read_bytes`; it is not UTF-8, and then the message ends in the advice.
  """
  try:
    return read_bytes(file).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    *before, line = error.object[: error.start].split(b"\n")
    where = f"{file}:{len(before) + 1} is not UTF-8: {error.reason} at byte {len(line)} of the line"
    raise BadInput(f"{where}. {advice}") from None


def lines(file: File) -> list[tuple[str, str]]:
  """[("file:line", line)] as `read_text` reads them; only line feeds end one."""
  text = read_text(file).removesuffix("\n")
  return [(f"{file}:{n}", line) for n, line in enumerate(text.split("\n"), 1)]


def objects(file: File) -> Iterator[tuple[str, dict]]:
  """("file:line", object) of each line of JSON that is not empty.

  Raises:
    BadInput: as for `read_text`; a line is not a JSON object.
  """
  for place, line in lines(file):
    if line.strip():
      try:
        made = json.loads(line)
      except ValueError as error:
        raise BadInput(f"{place} is not a line of JSON: {error}") from None
      if not isinstance(made, dict):
        raise BadInput(f'{place} must be like {{"key": ...}}; got {line[:60]}')
      yield place, made

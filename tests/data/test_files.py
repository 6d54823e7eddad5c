"""Readers of plain, gzipped and archived files: content, errors, and the limit on unpacking."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile

import pytest

from experiments.action_segmentation import data as video_data
from experiments.captioning import data as captions_data
from experiments.lip_sync import data as faces_data
from experiments.pixel_sequences import data as digits_data
from experiments.question_answering import data as babi_data
from experiments.speech_recognition import data as fsdd_data
from rnnjax.data import files, tables
from rnnjax.types import InvalidInputError

TEXT = "a\tone\r\n\nbé\u2028c\n"
LINES = [(1, "a\tone\r"), (2, ""), (3, "bé\u2028c")]  # only a line feed ends a line
MEMBERS = {
  "folder/": b"",
  "folder/TEXT.GZ": gzip.compress(TEXT.encode()),
  "../text": TEXT.encode(),
  "text": b"\xef\xbb\xbf" + TEXT.encode(),
}


def write_bytes(path, content):
  path.write_bytes(content)
  return path


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return path


def write_tar(path, members, compression=""):
  with tarfile.open(path, f"w:{compression}") as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size, info.type = len(content), b"5" if name.endswith("/") else b"0"
      archive.addfile(info, io.BytesIO(content))
  return path


@pytest.mark.parametrize(
  "name, pack, compression",
  [
    ("a.zip", write_zip, zipfile.ZIP_STORED),
    ("a.zip", write_zip, zipfile.ZIP_DEFLATED),
    ("a.tar", write_tar, ""),
    ("a.tar.gz", write_tar, "gz"),
  ],
)
def test_archive_contents(tmp_path, name, pack, compression):
  """All files of an archive are listed, in its order; nothing is extracted."""
  path = pack(tmp_path / name, MEMBERS, compression)
  members = files.list_files(str(path))
  assert [file.name for file in members] == ["TEXT.GZ", "text", "text"]
  locations = [f"{path}/folder/TEXT.GZ", f"{path}/../text", f"{path}/text"]
  assert [str(file) for file in members] == locations
  assert members[0].parent == path / "folder"
  assert [[*files.read_lines(file)] for file in members] == [
    [(f"{location}:{n}", line) for n, line in LINES] for location in locations
  ]
  assert [*tmp_path.iterdir()] == [path]
  assert not (tmp_path.parent / "text").exists()


def test_folder_contents(tmp_path):
  """Files are sorted; a .gz file may consist of several streams."""
  data = TEXT.encode()
  (tmp_path / "folder").mkdir()
  for name in "fbdhacge":
    write_bytes(tmp_path / name, data)
  write_bytes(tmp_path / "a.gz", gzip.compress(data[:4]) + gzip.compress(data[4:]))
  members = files.list_files(tmp_path)
  assert members == [tmp_path / name for name in ("a", "a.gz", *"bcdefgh")]
  assert {files.read_text(file) for file in members} == {TEXT}
  assert {files.read_bytes(file) for file in members} == {data}


def test_json_lines(tmp_path):
  """Empty lines are skipped."""
  path = write_bytes(tmp_path / "a.jsonl", '{"a": 1}\n \n{"b": "é", "c": null}'.encode())
  assert [*tables.read_jsonl(path)] == [
    (f"{path}:1", {"a": 1}),
    (f"{path}:3", {"b": "é", "c": None}),
  ]


def test_lone_surrogate_is_replaced(tmp_path):
  """A pair of surrogates is one character; a single one is invalid."""
  path = write_bytes(tmp_path / "a.jsonl", rb'{"a": "\ud83d\ude00 \uD83D", "\udc00": [NaN]}')
  ((_, row),) = tables.read_jsonl(path)
  assert row["a"] == "😀 \ufffd" and "\ufffd" in row


def write_corrupt_zip(path, old, new):
  """Write an archive with a few bytes changed."""
  write_zip(path, {"b": b"Peter", "é": b""}, zipfile.ZIP_STORED)
  return write_bytes(path, path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda p: "", r"^--data_dir must be a folder or a \.zip or .* that exists; got ''$"),
    (lambda p: p / "no", r"^--data_dir must be .*; got '.*no'$"),
    (lambda p: p / "no.zip", r"^--data_dir must be .*; got '.*no\.zip'$"),
    (lambda p: write_bytes(p / "a.txt", b""), r"^--data_dir must be .*; got '.*a\.txt'$"),
    (
      lambda p: write_bytes(p / "a.zip", b"PK"),
      r"a\.zip cannot be read as an archive: .*cut off\?$",
    ),
    (
      lambda p: write_corrupt_zip(p / "a.zip", b"\xc3", b"?"),
      r"a\.zip cannot be read as an archive: 'utf-8'",
    ),
    (
      lambda p: write_corrupt_zip(p / "a.zip", b"Peter", b"Pater"),
      r"a\.zip/b cannot be read to its end: Bad CRC",
    ),
    (
      lambda p: write_bytes(p / "a.tgz", b"no"),
      r"a\.tgz cannot be read as an archive: .*cut off\?$",
    ),
    (
      lambda p: write_bytes(p / "b.tgz", write_tar(p / "a.tgz", MEMBERS, "gz").read_bytes()[:-40]),
      r"b\.tgz cannot be read as an archive: .*cut off\?$",
    ),
    (lambda p: write_zip(p / "a.zip", {"b.gz": b"no"}), r"b\.gz cannot be read .*Not a gzipped"),
  ],
)
def test_invalid_folder_or_archive_raises(tmp_path, make, message):
  with pytest.raises(InvalidInputError, match=message):
    [files.read_bytes(file) for file in files.list_files(make(tmp_path))]


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.gz", gzip.compress(b"words", mtime=0)[:-9], r"a\.gz cannot be read to its end: .*cut off"),
    ("a.txt", b"\xef\xbb\xbfa\n\nb\xc3\xa9\xff", r"a\.txt:3 is not UTF-8: .* at byte 3 of the"),
    ("a.txt", b"\xe9", r"a\.txt:1 is not UTF-8: .* at byte 0 of the line\. Is it in another enc"),
    ("a.jsonl", b'{}\n\n{"b"\n', r"a\.jsonl:3 is not a line of JSON: "),
    ("a.jsonl", b'{}\n["b"]\n', r"""a\.jsonl:2 must be like \{"key": \.\.\.\}; got \["b"\]$"""),
  ],
)
def test_invalid_file_raises(tmp_path, name, content, message):
  with pytest.raises(InvalidInputError, match=message):
    [*tables.read_jsonl(write_bytes(tmp_path / name, content))]


ZEROS = bytes(0x2345678)  # 36 kB when deflated


def write_zip_with_false_size(path):
  """Write an archive that declares 5 bytes and holds more."""
  size = len(ZEROS).to_bytes(4, "little")
  write_zip(path, {"b": ZEROS})
  return write_bytes(path, path.read_bytes().replace(size, (5).to_bytes(4, "little")))


@pytest.mark.parametrize(
  "make, message",
  [
    (
      lambda p: write_zip(p / "a.zip", {"b": ZEROS}),
      r"a\.zip declares 36984440 bytes; it may hold 2097152 bytes at most\. A folder of plain",
    ),
    (
      lambda p: write_zip(p / "a.zip", dict.fromkeys("abc", ZEROS[: 1 << 20])),
      "declares 3145728 bytes",
    ),
    (
      lambda p: write_zip(p / "a.zip", {"b": b"x"}, zipfile.ZIP_BZIP2),
      r"a\.zip must hold files that are stored or deflated",
    ),
    (lambda p: write_tar(p / "a.tgz", {"b": ZEROS}, "gz"), r"a\.tgz must unpack to 2097152 bytes"),
    (
      lambda p: write_zip_with_false_size(p / "a.zip"),
      r"a\.zip/b cannot be read to its end: Bad CRC",
    ),
    (
      lambda p: write_bytes(p / "a.gz", gzip.compress(ZEROS)).parent,
      r"a\.gz must unpack to 2097152 by",
    ),
    (
      lambda p: write_zip(p / "a.zip", {"b.gz": gzip.compress(ZEROS)}),
      r"a\.zip/b\.gz must unpack to 2097152 bytes at most.*; a plain file may hold more",
    ),
  ],
)
def test_decompression_bomb_raises(tmp_path, monkeypatch, make, message):
  """The error comes before memory is allocated, at any declared size."""
  monkeypatch.setattr(files, "UNPACK_LIMIT", 1 << 21)
  path = make(tmp_path)
  tracemalloc.start()
  with pytest.raises(InvalidInputError, match=message):
    [files.read_bytes(file) for file in files.list_files(path)]
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 1 << 23


@pytest.mark.parametrize(
  "source", [babi_data, captions_data, digits_data, faces_data, fsdd_data, video_data]
)
def test_unknown_dataset_raises(source):
  with pytest.raises(
    InvalidInputError, match=r"dataset must be one of \('auto', .*\); got 'linux'"
  ):
    source.load("linux", "")

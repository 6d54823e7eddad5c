"""Text pairs from files: every format, the splits, and malformed files."""

import gzip
import io
import json
import logging
import zipfile
import zlib

import pytest

from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import synthetic_pairs
from rnnjax.types import InvalidInputError

SPLITS = ("train", "valid", "test")


def write_text(path, text):
  path.parent.mkdir(exist_ok=True, parents=True)
  raw = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
  return path


def write_zip(path, files):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, text in files.items():
      archive.writestr(name, text)
  return write_text(path, buffer.getvalue())


def write_parallel_files(path, **texts):
  """Write train, val and test in English and German; train_en="..." is the text of train.en."""
  for stem in ("train", "val", "test"):
    for language in ("en", "de"):
      write_text(
        path / f"{stem}.{language}", texts.get(f"{stem}_{language}", f"{stem} {language}\n")
      )
  return path


def split_by_source(dataset):
  """Return {source: (split, target)} of all pairs."""
  return {s: (split, t) for split in SPLITS for s, t in getattr(dataset, split)}


def expected_splits(sources):
  """Return {source: split} by CRC-32."""
  tenths = {s: zlib.crc32(s.encode()) % 10 for s in sources}
  return {s: "valid" if n == 8 else "test" if n == 9 else "train" for s, n in tenths.items()}


@pytest.mark.parametrize("valid", ["val", "valid", "dev"])
def test_line_aligned_files(tmp_path, valid):
  """Plain or gzipped, in both directions, among other files; only line feeds end lines."""
  write_text(tmp_path / "corpus" / "train.en.gz", "\ufeffA  dog.\nTwo\u2028cats .\r\n")
  write_text(tmp_path / "corpus" / "train.de", "Ein Hund.\nZwei\tKatzen .")
  write_text(tmp_path / "corpus" / f"{valid}.en", "b\nb\n")
  write_text(tmp_path / "corpus" / f"{valid}.de.gz", "B\nC\n")
  write_text(tmp_path / "corpus" / "test_2016.de", "D\n")
  write_text(tmp_path / "corpus" / "test_2016.en", "d\n")
  write_text(tmp_path / "corpus" / "test_2016.fr", "quatre\n")
  write_text(tmp_path / "corpus" / "test_2017.en", "alone\n")
  dataset = pairs_data.load_parallel(str(tmp_path / "corpus"), "en", "de")
  assert dataset == (
    "corpus en-de",
    [("A dog.", "Ein Hund."), ("Two cats .", "Zwei Katzen .")],
    [("b", "B"), ("b", "C")],
    [("d", "D")],
    {},
  )
  reverse = pairs_data.load("auto", str(tmp_path / "corpus"), "de", "en", "summaries")
  assert reverse.name == "corpus de-en"
  assert [[(t, s) for s, t in split] for split in reverse[1:4]] == list(dataset[1:4])


def test_training_pairs_with_empty_side_are_dropped(tmp_path, caplog):
  data = write_parallel_files(tmp_path, train_en="a\n\nc\nd\n", train_de="A\nB\n \nD\n")
  assert pairs_data.load_parallel(data, "en", "de").train == [("a", "A"), ("d", "D")]
  assert f"2 empty lines, the first {tmp_path}/train.en:2" in caplog.text


TABLE = [(f"text {n}", f"title {n}") for n in range(60)]


def csv_text(rows, header="id,Title,Text"):
  def quoted(text):
    return '"' + text.replace('"', '""') + '"'

  return "\n".join([header, *(f"{n},{quoted(t)},{quoted(s)}" for n, (s, t) in enumerate(rows))])


def jsonl_text(rows):
  return "".join(json.dumps({"Text": s, "Title": t, "n": 1}) + "\n" for s, t in rows)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.jsonl", "table.json.gz"])
def test_csv_and_jsonl_tables(tmp_path, name, caplog):
  """Incomplete and repeated rows are dropped; the rest is split by a hash of the source."""
  caplog.set_level(logging.INFO)
  other_rows = [('say "yes",\n  my\tdear ', " well\n"), (" \n", "no source"), ("no target", "")]
  rows = [*TABLE, *other_rows, (" text  7\n", "another")]
  path = write_text(tmp_path / name, (csv_text if "csv" in name else jsonl_text)(rows))
  splits = split_by_source(pairs_data.load("files", str(path), "Text", "Title", "summaries"))
  expected = {**dict(TABLE), 'say "yes", my dear': "well"}
  assert {source: target for source, (_, target) in splits.items()} == expected
  assert {source: split for source, (split, _) in splits.items()} == expected_splits(expected)
  assert f"{name}: 64 rows; dropped 2 that lack a text and 1 with a repeated" in caplog.text


def test_long_csv_field(tmp_path):
  long = "word " * 40_000
  path = write_text(tmp_path / "table.csv", csv_text([*TABLE, (long, "a long one")]))
  dataset = pairs_data.load("auto", str(path), "Text", "Title", "summaries")
  assert (long.strip(), "a long one") in dataset.train + dataset.valid + dataset.test


def test_split_depends_only_on_source(tmp_path):
  """A source is in the same split in another order and among other rows."""
  dataset = pairs_data.load_table(
    write_text(tmp_path / "one.csv", csv_text(TABLE)), "Text", "Title"
  )
  more = [(f"more {n}", "x") for n in range(9)] + TABLE[::-1]
  other = split_by_source(
    pairs_data.load_table(write_text(tmp_path / "two.csv", csv_text(more)), "Text", "Title")
  )
  assert split_by_source(dataset).items() <= other.items()
  assert dataset.train == [row for row in TABLE if row in dataset.train]


def test_jsonl_rows_with_missing_keys_are_dropped(tmp_path):
  lines = jsonl_text(TABLE) + '\n{"Text": "alone"}\n{"Text": "null", "Title": null}\n'
  lines += '{"Text": 5, "Title": 0}\n'
  splits = split_by_source(
    pairs_data.load_table(write_text(tmp_path / "a.jsonl", lines), "Text", "Title")
  )
  assert {source: target for source, (_, target) in splits.items()} == {**dict(TABLE), "5": "0"}


def test_news_articles(tmp_path):
  """Headline, then article; the first of each headline; other files are ignored."""
  news = {f"bbc/{n % 3}/{n:03}.txt": f"Title {n}\n\nOne\n\n two {n}.\n" for n in range(40)}
  path = write_zip(
    tmp_path / "news.zip",
    {
      "bbc/": "",
      "bbc/README.TXT": "a\nb",
      "__MACOSX/bbc/._001.txt": "c\nd",
      **news,
      "bbc/x/900.txt": b"Pounds\n\nIt cost \xa35.",
      "bbc/x/901.txt": "Title 3\n\nanother version",
      "bbc/x/902.txt": "Other\n\nOne two 3.",
      "bbc/x/903.txt": "Only a headline",
    },
  )
  splits = split_by_source(pairs_data.load("files", str(path), "", "", "summaries"))
  expected = {f"One two {n}.": f"Title {n}" for n in range(40)} | {"It cost \ufffd5.": "Pounds"}
  assert {source: target for source, (_, target) in splits.items()} == expected
  assert {source: split for source, (split, _) in splits.items()} == expected_splits(expected)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["news.zip"]


def test_pronunciation_dictionary(tmp_path):
  """Phonemes have no stress; training pairs have all pronunciations, test pairs the first."""
  letters = "bcdfghjklmnpqrstvwxz"
  lines = [f"{a}O{b} 1 {a} AO1 {b}" for a in letters.upper() for b in "BDG"]
  lines += ["READ 1 R EH1 D", "READ 2 R IY1 D", "READ 3 R EH0 D"]
  lines += ["RECORD 1 R AH0 K AO1 R D", "RECORD 2 R AH2 K AO0 R D"]
  lines += ["'TIS 1 T IH1 Z", "A. 1 EY1", "A42128 1 EY1 F", ""]
  files = {"cmudict/README": "x", "cmudict/cmudict": "\n".join(lines)}
  path = write_zip(tmp_path / "cmudict.zip", files)
  dataset = pairs_data.load("auto", str(path), "", "", "summaries")
  expected = {f"{a}o{b}": f"{a} AO {b}".upper() for a in letters for b in "bdg"}
  expected |= {"read": "R EH D", "record": "R AH K AO R D"}
  one_each = dataset._replace(train=[row for row in dataset.train if row[1] != "R IY D"])
  splits = split_by_source(one_each)
  assert {source: target for source, (_, target) in splits.items()} == expected
  assert {source: split for source, (split, _) in splits.items()} == expected_splits(expected)
  assert dataset.references == {"read": ["R EH D", "R IY D"]}
  pronunciations = [phonemes for word, phonemes in dataset.train if word == "read"]
  assert pronunciations == ["R EH D", "R IY D"]


def write_two_test_files(tmp_path):
  write_text(tmp_path / "test_2017.en", "a\n")
  write_text(tmp_path / "test_2017.de", "a\n")
  return write_parallel_files(tmp_path)


def write_all_but(tmp_path, name):
  (write_parallel_files(tmp_path) / name).unlink()
  return tmp_path


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda p: "", r"--data_dir must be a folder or a file that exists; got ''"),
    (lambda p: p / "no", r"--data_dir must be a folder or a file that exists; got '.*no'"),
    (
      lambda p: write_parallel_files(p, train_en="a\nb\n"),
      r"train\.en and .*train\.de must have the same number .* 2 and 1",
    ),
    (
      lambda p: write_parallel_files(p, val_en="a\n\n", val_de="A\nB\n"),
      r"val\.en:2 is empty; only the training set",
    ),
    (
      lambda p: write_parallel_files(p, test_de=" \n"),
      r"test\.de:1 is empty; only the training set",
    ),
    (write_two_test_files, r"one pair of files test\*\.en and test\*\.de .*'test_2017\.en'"),
    (
      lambda p: write_all_but(p, "val.de"),
      r"one pair of files valid\*\.en .*it holds .*'val\.en'\]",
    ),
    (lambda p: write_text(p / "a.txt", "a"), r"a table must end in .csv, .*; got .*a\.txt"),
    (
      lambda p: write_text(p / "a.csv", csv_text(TABLE, "id,title,text")),
      r"a\.csv must have columns 'en' and 'de'; it has \['id', 'title', 'text'\]",
    ),
    (
      lambda p: write_text(p / "a.csv", "en,de\na,b\na,b,c\n"),
      r"a\.csv:3 is not CSV: 3 fields, and",
    ),
    (
      lambda p: write_text(p / "a.csv", 'en,de\na,b\na,"b\nc\n'),
      r"a\.csv:4 is not CSV: .*quotation",
    ),
    (
      lambda p: write_text(p / "a.csv", "en,de\na,b\n"),
      r"a\.csv has 1 pairs, too few to split",
    ),
    (
      lambda p: write_text(p / "a.jsonl", '{"en": "a"}\n\n{"b": "a"}\n'),
      r"must have columns 'en' and 'de'; it has \['en', 'b'\]",
    ),
    (lambda p: write_zip(p / "a.zip", {"a.md": "x"}), r"a\.zip must hold .*; it holds \['a\.md'\]"),
    (
      lambda p: write_zip(p / "cmudict.zip", {"a.txt": "x"}),
      r"cmudict\.zip must hold .*\['a\.txt'\]",
    ),
    (
      lambda p: write_zip(p / "cmudict.zip", {"cmudict": "WORD 1 W ER1 D\nWORD 2\n"}),
      r"cmudict\.zip/cmudict:2 must be like .*; got 'WORD 2'",
    ),
  ],
)
def test_invalid_files_raise(tmp_path, make, message):
  with pytest.raises(InvalidInputError, match=message):
    pairs_data.load("files", str(make(tmp_path)), "en", "de", "translations")


def test_unknown_dataset_or_task_raises():
  with pytest.raises(
    InvalidInputError, match=r"dataset must be one of \('auto', .*\); got 'linux'"
  ):
    pairs_data.load("linux", "", "en", "de", "summaries")
  with pytest.raises(InvalidInputError, match=r"task must be one of .*'summaries'.*; got 'poems'"):
    pairs_data.load("embedded", "", "en", "de", "poems")


@pytest.mark.parametrize("task", synthetic_pairs.TASKS)
def test_embedded_pairs_and_fallback_warning(caplog, task):
  """They are those of synthetic_pairs; auto falls back to them with a warning."""
  dataset = pairs_data.load("embedded", "", "", "", task)
  assert not caplog.text
  assert dataset == ("embedded", *synthetic_pairs.generate_splits(task), {})
  assert pairs_data.load("auto", "", "", "", task) == dataset
  assert "--data_dir=PATH" in caplog.text

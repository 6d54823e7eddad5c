"""Word vectors: all formats, fallback spellings, and errors that name the line."""

import gzip
import logging
import pathlib

import numpy as np
import pytest

from rnnjax.data import files, word_vectors
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.types import InvalidInputError

ROWS = "the 1 2 3\nof 4 5 6\nfilm -1 0.5 1e-1\n"
WORDS = Vocabulary(["film", "the", "missing"])


def write_file(path, content):
  """Write text or bytes to a file, gzipped if its name ends in .gz; return its path."""
  data = content if isinstance(content, bytes) else content.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return str(path)


def file_formats(words, numbers):
  """Yield the name and the content of a file of each format."""
  encoded = [word.encode() for word in words]
  text = [b" ".join([word, *(str(x).encode() for x in row)]) for word, row in zip(encoded, numbers)]
  binary = [word + b" " + row.astype("<f4").tobytes() for word, row in zip(encoded, numbers)]
  header = f"{len(words)} {numbers.shape[1]}\n".encode()
  yield "glove.txt", b"".join(row + b"\n" for row in text)
  yield "word2vec.txt", header + b"".join(row + b" \n" for row in text)
  yield "word2vec.bin", header + b"".join(binary)
  yield "lines.bin", header + b"".join(row + b"\n" for row in binary)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_are_indexed_by_word_id(tmp_path, suffix):
  table = word_vectors.load_embeddings(write_file(tmp_path / f"glove.txt{suffix}", ROWS), WORDS)
  expected = np.float32([[-1, 0.5, 0.1], [1, 2, 3]])
  np.testing.assert_array_equal(table[WORDS.encode(["film", "the"])], expected)
  np.testing.assert_array_equal(table[0], np.zeros(3))
  assert np.isfinite(table).all() and table[WORDS.ids["missing"]].any()


def test_streamed_file_may_exceed_memory_limit(tmp_path, monkeypatch):
  """A streamed .gz file, such as GoogleNews', has a limit on its ratio only."""
  monkeypatch.setattr(files, "UNPACK_LIMIT", 1000)
  rows = b"".join(b"word%d 1 2 3\n" % n for n in range(9000)) + ROWS.encode()
  path = write_file(tmp_path / "glove.txt.gz", rows)
  with pytest.raises(InvalidInputError, match="must unpack to 1000 bytes at most"):
    files.read_bytes(pathlib.Path(path))
  assert word_vectors.load_embeddings(path, WORDS).shape == (len(WORDS), 3)
  monkeypatch.setattr(files, "MIN_UNPACK_LIMIT", len(rows))
  monkeypatch.setattr(files, "MAX_COMPRESSION_RATIO", 1)
  assert word_vectors.load_embeddings(path, WORDS).shape == (len(WORDS), 3)
  monkeypatch.setattr(files, "MIN_UNPACK_LIMIT", len(rows) - 1)
  with pytest.raises(InvalidInputError, match="must unpack to"):
    word_vectors.load_embeddings(path, WORDS)


@pytest.mark.parametrize("seed", range(20))
def test_all_formats_round_trip(tmp_path, seed):
  rng = np.random.default_rng(seed)
  num_words, dim = rng.integers(1, 40), rng.integers(2, 60)
  words = [f"{'äx€'[n % 3]}{'y' * (n // 3)}" for n in range(num_words)]
  numbers = rng.normal(0, 10.0 ** rng.integers(-9, 9), (num_words, dim)).astype(np.float32)
  vocabulary = Vocabulary([*rng.permutation(words)[: (num_words + 1) // 2].tolist(), "missing"])
  tables = []
  for name, content in file_formats(words, numbers):
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
      tables.append(word_vectors.load_embeddings(write_file(path, content), vocabulary))
  for word in vocabulary.words[2:-1]:
    np.testing.assert_array_equal(tables[0][vocabulary.ids[word]], numbers[words.index(word)])
  for table in tables[1:]:
    np.testing.assert_array_equal(table, tables[0])


def test_missing_words_get_noise_of_same_mean_and_std(tmp_path):
  words = Vocabulary(["the", *(f"missing{'x' * n}" for n in range(500))])
  numbers = np.random.default_rng(0).normal(5, 2, (1, 200)).astype(np.float32)
  table = word_vectors.load_embeddings(
    write_file(tmp_path / "f", dict(file_formats(["the"], numbers))["glove.txt"]), words
  )
  noise = np.delete(table, [0, words.ids["the"]], axis=0)
  np.testing.assert_allclose(noise.mean(), numbers.mean(), rtol=0.01)
  np.testing.assert_allclose(noise.std(), numbers.std(), rtol=0.01)


def test_words_with_spaces_and_invalid_utf8(tmp_path):
  rows = b"the 1 2\n. . . 3 4\n\xff\xfe 5 6\n  7 8\nat a@b.com 9 10\n"
  table = word_vectors.load_embeddings(
    write_file(tmp_path / "glove.txt", rows), Vocabulary([". . .", "at a@b.com"])
  )
  np.testing.assert_array_equal(table[2:], [[3, 4], [9, 10]])


@pytest.mark.parametrize(
  "word, rows, number",
  [
    ("It", "IT 3\nit 2\nIt 1\n", 1),  # the exact match, at any position
    ("iT", "IT 3\nIt 4\nit 2\n", 2),
    ("paris", "PARIS 3\nParis 4\n", 4),
    ("nato", "NATO 3\n", 3),
    ("1998", "#### 6\n0000 5\n", 5),
    ("7th", "#TH 6\n#th 7\n", 7),
    ("<unk>", "<unk> 8\n", 8),
  ],
)
def test_fallback_spellings_in_order(tmp_path, word, rows, number, caplog):
  words, path = (
    Vocabulary({word} - {"<unk>"}),
    write_file(tmp_path / "vectors", rows + "another 9\n"),
  )
  with caplog.at_level(logging.INFO):
    assert word_vectors.load_embeddings(path, words)[words.ids[word]] == number
  exact = f"{word} " in rows
  assert f"1 of {len(words) - 1} words: {exact:d} as they are, {not exact:d} in" in caplog.text


BINARY = dict(file_formats(["the", "of"], np.float32([[1, 2, 3], [4, 5, 6]])))["word2vec.bin"]


@pytest.mark.parametrize(
  "content, message",
  [
    (ROWS + "late 1 2\n", r":4 has 2 numbers where the first row has 3"),
    (ROWS + "late 1 2 3 4\n", r":4 has 4 numbers where the first row has 3"),
    ("the 1 two 3\n", r":1 is not a word and 3 numbers"),
    ("of 1 2\nthe nan 3\n", r":2 is not a word and 2 numbers, all finite: b'the'"),
    ("of 1 2\nthe 1 1e39\n", r":2 is not a word and 2 numbers, all finite"),
    ("le 1 2 3\n", r"holds none of the 5 words"),
    ("", r"no file of word vectors .*, or it is empty"),
    (gzip.compress(b"", mtime=0), r":1 is not a word and numbers"),
    (gzip.compress(ROWS.encode(), mtime=0)[:-9], r"cannot be read.*Is the download whole"),
    ("5 3\n" + ROWS, r":1 declares 5 rows, but there are 3"),
    ("2 3\n" + ROWS, r":1 declares 2 rows, but there are 3"),
    ("3 3\nthe 1 two 3\nof 4 5 6\n", r"If it is text, its line 2 is not a word and 3 numbers"),
    (BINARY[:-1], r":1 declares 2 rows, but only 1 are complete"),
    (BINARY.replace(b"2", b"3", 1), r":1 declares 3 rows, but only 2 are complete"),
    (BINARY + b"film", r":1 declares 2 rows, but more bytes follow"),
    (BINARY.replace(np.float32(2).tobytes(), np.float32(np.inf).tobytes()), r", row 1, is not a"),
    (BINARY.replace(b"2 3", b"2 999"), r":1, 2 rows of 999 numbers, declares 3996 bytes; it may"),
    (BINARY.replace(b"2", b"0", 1), r":1 declares 0 rows"),
  ],
)
def test_invalid_file_raises(tmp_path, content, message):
  with pytest.raises(InvalidInputError, match=message):
    word_vectors.load_embeddings(write_file(tmp_path / "vectors", content), WORDS)


def test_missing_file_raises():
  with pytest.raises(InvalidInputError, match="no file of word vectors '/nowhere'"):
    word_vectors.load_embeddings("/nowhere", WORDS)

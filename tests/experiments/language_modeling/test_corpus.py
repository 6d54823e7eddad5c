"""Texts for language models: how they are cut, what becomes of their symbols, and bad ones."""

import collections
import gzip
import itertools
import json
import pathlib

import numpy as np
import pytest

from experiments.language_modeling import data as corpus_data
from experiments.text_classification import data as imdb_data
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.types import InvalidInputError

PARTS = ("train", "valid", "test")


def decode_splits(text):
  """The three parts of a corpus as lists of symbols."""
  return [text.vocabulary.decode(getattr(text, part)) for part in PARTS]


def split_texts(text):
  return ["".join(part) for part in decode_splits(text)]


def write_text(path, text):
  path.parent.mkdir(exist_ok=True)
  raw = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
  return str(path)


def test_character_splits_of_one_file(tmp_path):
  """The last 10 % for the test, five hundredths far apart held out: of characters, not bytes."""
  draw = np.random.default_rng(0)
  text = "".join(draw.choice([*"abc é\n—"], 1000))
  read = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", text))
  held = [text[a : a + 10] for a in (80, 260, 440, 620, 800)]
  ends = [(0, 80), (90, 260), (270, 440), (450, 620), (630, 800), (810, 900)]
  rest = [text[a:b] for a, b in ends]
  assert split_texts(read) == ["".join(rest), "".join(held), text[900:]]
  assert sorted(read.vocabulary.words) == sorted(set(text))
  assert read.name == "mine.txt"


def test_word_splits_of_one_file(tmp_path):
  """The same cut; words end at blanks and lines with <eos>; what training never saw is <unk>."""
  lines = [f"{n % 7:04} {n:04}\n" for n in range(100)]
  read = corpus_data.load_words("auto", write_text(tmp_path / "mine.txt", "".join(lines)))
  known = lambda numbers: [w for n in numbers for w in (f"{n % 7:04}", f"{n:04}", "<eos>")]
  train, *rest = decode_splits(read)
  held = (8, 26, 44, 62, 80)
  assert train == known(n for n in range(90) if n not in held)
  strange = lambda numbers: [w if n % 3 != 1 else "<unk>" for n, w in enumerate(known(numbers))]
  assert rest == [strange(held), strange(range(90, 100))]


def test_empty_line_is_one_eos(tmp_path):
  for part in PARTS:
    write_text(tmp_path / f"{part}.txt", "a b\n\n  a\n")
  expected = ["a", "b", "<eos>", "<eos>", "a", "<eos>"]
  assert decode_splits(corpus_data.load_words("files", str(tmp_path))) == [expected] * 3


@pytest.mark.parametrize("endings", [("", "", ""), (".gz", "", ".gz")])
def test_folder_with_three_splits(tmp_path, endings):
  """As the Penn Treebank has them, compressed or not, with whatever else lies there."""
  folder = tmp_path / "ptb"
  texts = ["a <unk> b a\nb\n", "b new\n", "a a\nnew b"]
  for part, text, ending in zip(PARTS, texts, endings, strict=True):
    write_text(folder / f"ptb.{part}.txt{ending}", text)
  write_text(folder / "readme.txt", "not a part")
  words = corpus_data.load_words("files", str(folder))
  assert words.name == "ptb"
  assert decode_splits(words) == [
    ["a", "<unk>", "b", "a", "<eos>", "b", "<eos>"],
    ["b", "<unk>", "<eos>"],
    ["a", "a", "<eos>", "<unk>", "b", "<eos>"],
  ]
  assert split_texts(corpus_data.load_characters("files", str(folder))) == texts


def test_folder_with_one_text(tmp_path):
  """It is cut as the file alone is."""
  path = write_text(tmp_path / "one" / "text.txt.gz", "abc\n" * 50)
  alone, inside = (corpus_data.load_characters("files", p) for p in (path, str(tmp_path / "one")))
  train, valid, test = split_texts(alone)
  assert split_texts(inside) == [train, valid, test]
  assert (valid, test) == ("ab" + "ab" * 4, "abc\n" * 5)


def test_vocab_size_keeps_most_frequent_words(tmp_path):
  """<unk> counts, and is first; of words equally frequent the alphabet decides."""
  for part in PARTS:
    write_text(tmp_path / f"{part}.txt", "c a b c a b c\n")
  words = corpus_data.load_words("files", str(tmp_path), vocab_size=3)
  assert words.vocabulary.words == ["<unk>", "c", "a"]
  assert decode_splits(words)[0] == ["c", "a", "<unk>", "c", "a", "<unk>", "c", "<unk>"]


def test_strip_removes_spaces_around_lines(tmp_path):
  for part in PARTS:
    write_text(tmp_path / f"{part}.txt", "  a b \n\n\tb  a\t\n")
  assert (
    split_texts(corpus_data.load_characters("files", str(tmp_path), strip_lines=True))
    == ["a b\n\nb  a\n"] * 3
  )
  assert (
    split_texts(corpus_data.load_characters("files", str(tmp_path))) == ["  a b \n\n\tb  a\t\n"] * 3
  )


def test_raw_mode_preserves_arbitrary_bytes(tmp_path):
  """raw gives back each byte; without, the place that is not UTF-8 is named, and what to do."""
  raw = bytes(range(256)) * 3
  path = write_text(tmp_path / "noise.txt", raw)
  read = split_texts(corpus_data.load_characters("files", path, byte_level=True))
  assert sorted("".join(read).encode("latin-1")) == sorted(raw)
  with pytest.raises(
    InvalidInputError, match=r"noise\.txt:2 is not UTF-8: .* at byte 117 .*--byte_level"
  ):
    corpus_data.load_characters("files", path)


def test_embedded_text_and_fallback_warning(caplog):
  """It comes along, whole; auto takes it with a warning, and of its words those seen twice."""
  path = pathlib.Path(corpus_data.__file__).with_name("hello.txt")
  read = corpus_data.load_characters("embedded", "")
  assert sorted("".join(split_texts(read))) == sorted(path.read_text())
  assert not caplog.text
  assert split_texts(corpus_data.load_characters("auto", "")) == split_texts(read)
  assert "--text=FILE" in caplog.text
  train, *_ = decode_splits(corpus_data.load_words("embedded", ""))
  counts = collections.Counter(train)
  assert min(counts.values()) >= 2
  assert {"hello", "mouse", ",", "<eos>", "<unk>"} <= counts.keys()


def test_reviews_are_concatenated_with_eos(tmp_path):
  """Lower-case words, <eos> after each; the end of training is held out, its numbers unknown."""
  for part in ("train", "test"):
    rows = [{"text": f"Number {n}, <br />isn't it?", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  read = corpus_data.load_words("reviews", str(tmp_path))
  review = lambda n: ["number", str(n) if n < 36 else "<unk>", ",", "isn't", "it", "?", "<eos>"]
  train, valid, test = decode_splits(read)
  assert test == list(itertools.chain(*map(review, range(40))))
  assert valid == review(36) * 4
  assert sorted(train) == sorted(itertools.chain(*map(review, range(36))))


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_unlabeled_reviews_extend_training_set(tmp_path, kind):
  """They come after those with one, in training alone, and classify nothing."""
  for part in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  before = decode_splits(corpus_data.load_words("reviews", str(tmp_path)))
  if kind == "folder":
    folder = tmp_path / "train" / "unsup"
    folder.mkdir(parents=True)
    for n in (10, 9):
      write_text(folder / f"{n}_0.txt", f"unlike {n}")
  else:
    rows = [{"text": "unlike 9"}, {"text": "unlike 10", "label": None}]
    write_text(tmp_path / "unsup.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))
  train, *rest = decode_splits(corpus_data.load_words("reviews", str(tmp_path)))
  assert train == [*before[0], "unlike", "9", "<eos>", "unlike", "10", "<eos>"]
  assert rest == before[1:]
  assert len(imdb_data.load(data_dir=str(tmp_path)).train) == 36


def test_review_without_text_raises(tmp_path):
  for part in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  write_text(tmp_path / "unsup.jsonl", '{"txt": "lost"}\n')
  with pytest.raises(InvalidInputError, match=r"unsup.jsonl:1 must be .*lost"):
    corpus_data.load_words("reviews", str(tmp_path))


def write_two_texts(folder):
  for name in "ab":
    write_text(folder / f"{name}.txt", "some words\n" * 50)
  return folder


@pytest.mark.parametrize("read", [corpus_data.load_characters, corpus_data.load_words])
@pytest.mark.parametrize(
  "make, message",
  [
    (
      write_two_texts,
      r"must hold either one text, or one file each .* holds \['a\.txt', 'b\.txt'\]",
    ),
    (lambda folder: folder, r"must hold either one text.* holds \[\]"),
    (lambda folder: folder / "nowhere", r"neither a file nor a folder '.*nowhere'"),
    (lambda folder: write_text(folder / "no.txt", ""), r"the train part of no\.txt has 0 tokens"),
    (
      lambda folder: write_text(folder / "no.txt.gz", ""),
      r"the train part of no\.txt\.gz has 0 tokens",
    ),
    (
      lambda folder: write_text(folder / "a.txt", "a"),
      r"part of a\.txt has [01] tokens.* too short",
    ),
    (lambda folder: write_text(folder / "a.gz", "?")[:-2] + "txt", "neither a file nor a folder"),
  ],
)
def test_invalid_text_files_raise(tmp_path, read, make, message):
  with pytest.raises(InvalidInputError, match=message):
    read("files", str(make(tmp_path)))


def test_unknown_dataset_raises():
  with pytest.raises(
    InvalidInputError, match=r"dataset must be one of \('auto', .*\); got 'linux'"
  ):
    corpus_data.load_characters("linux", "")


def test_bptt_batches_of_each_split(tmp_path):
  """Training goes round; the others are weighed whole, each column with a window before it."""
  text = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  parts = corpus_data.make_batches(text, 4, 5, seed=1)
  assert all(batch["weights"].all() for batch in itertools.islice(parts.train.stream(), 50))
  for part in ("valid", "test"):
    weight = sum(batch["weights"].sum() for batch in getattr(parts, part))
    assert weight == len(getattr(text, part)) - 1
  first = next(iter(parts.test))  # 53 pairs in 4 columns: the second column has those from 14 on
  np.testing.assert_array_equal(first["tokens"][:, 1], text.test[9:15])
  assert not first["weights"].any()


def test_too_short_split_raises(tmp_path):
  """27 characters are to be validated: the corpus is named, and the flag that helps."""
  text = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  message = r"^mine\.txt: a text of 27 tokens cannot fill .* 28 columns; .* smaller --batch_size"
  corpus_data.make_batches(text, 27, 5, seed=1)
  with pytest.raises(InvalidInputError, match=message):
    corpus_data.make_batches(text, 28, 5, seed=1)


def test_unknown_character_raises_without_unk():
  """Without <unk> among the specials a strange symbol is an error that names it."""
  vocabulary = Vocabulary.from_texts(["abcab"], specials=())
  assert vocabulary.decode(vocabulary.encode("cab")) == [*"cab"]
  with pytest.raises(
    InvalidInputError, match=r"^\['x', 'y'\] do not occur .*, which has 3 symbols"
  ):
    vocabulary.encode("axbyx")
  known = Vocabulary.from_texts(["abcab"], specials=("<unk>",))
  np.testing.assert_array_equal(known.encode("axb"), [1, 0, 2])

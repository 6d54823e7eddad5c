"""Texts of language models: splits, vocabularies, batches, and malformed files."""

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

SPLITS = ("train", "valid", "test")


def decode_splits(corpus):
  """Return the symbols of the three sets of a corpus."""
  return [corpus.vocabulary.decode(getattr(corpus, split)) for split in SPLITS]


def split_texts(corpus):
  return ["".join(symbols) for symbols in decode_splits(corpus)]


def write_text(path, text):
  path.parent.mkdir(exist_ok=True)
  data = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return str(path)


def test_character_splits_of_one_file(tmp_path):
  """The last 10 % are the test set, five pieces of 1 % the validation set, of characters."""
  rng = np.random.default_rng(0)
  text = "".join(rng.choice([*"abc é\n—"], 1000))
  corpus = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", text))
  held_out = [text[a : a + 10] for a in (80, 260, 440, 620, 800)]
  bounds = [(0, 80), (90, 260), (270, 440), (450, 620), (630, 800), (810, 900)]
  train = [text[a:b] for a, b in bounds]
  assert split_texts(corpus) == ["".join(train), "".join(held_out), text[900:]]
  assert sorted(corpus.vocabulary.words) == sorted(set(text))
  assert corpus.name == "mine.txt"


def test_word_splits_of_one_file(tmp_path):
  """The same splits. Lines end with <eos>; words that are not in the training set are <unk>."""
  lines = [f"{n % 7:04} {n:04}\n" for n in range(100)]
  corpus = corpus_data.load_words("auto", write_text(tmp_path / "mine.txt", "".join(lines)))
  tokens = lambda numbers: [w for n in numbers for w in (f"{n % 7:04}", f"{n:04}", "<eos>")]
  train, *rest = decode_splits(corpus)
  held_out = (8, 26, 44, 62, 80)
  assert train == tokens(n for n in range(90) if n not in held_out)
  with_unk = lambda numbers: [w if n % 3 != 1 else "<unk>" for n, w in enumerate(tokens(numbers))]
  assert rest == [with_unk(held_out), with_unk(range(90, 100))]


def test_empty_line_is_one_eos(tmp_path):
  for split in SPLITS:
    write_text(tmp_path / f"{split}.txt", "a b\n\n  a\n")
  expected = ["a", "b", "<eos>", "<eos>", "a", "<eos>"]
  assert decode_splits(corpus_data.load_words("files", str(tmp_path))) == [expected] * 3


@pytest.mark.parametrize("suffixes", [("", "", ""), (".gz", "", ".gz")])
def test_folder_with_three_splits(tmp_path, suffixes):
  """As in the Penn Treebank, compressed or not; other files are ignored."""
  folder = tmp_path / "ptb"
  texts = ["a <unk> b a\nb\n", "b new\n", "a a\nnew b"]
  for split, text, suffix in zip(SPLITS, texts, suffixes, strict=True):
    write_text(folder / f"ptb.{split}.txt{suffix}", text)
  write_text(folder / "readme.txt", "not a split")
  corpus = corpus_data.load_words("files", str(folder))
  assert corpus.name == "ptb"
  assert decode_splits(corpus) == [
    ["a", "<unk>", "b", "a", "<eos>", "b", "<eos>"],
    ["b", "<unk>", "<eos>"],
    ["a", "a", "<eos>", "<unk>", "b", "<eos>"],
  ]
  assert split_texts(corpus_data.load_characters("files", str(folder))) == texts


def test_folder_with_one_text(tmp_path):
  """It is split like the file alone."""
  path = write_text(tmp_path / "one" / "text.txt.gz", "abc\n" * 50)
  alone, inside = (corpus_data.load_characters("files", p) for p in (path, str(tmp_path / "one")))
  train, valid, test = split_texts(alone)
  assert split_texts(inside) == [train, valid, test]
  assert (valid, test) == ("ab" + "ab" * 4, "abc\n" * 5)


def test_vocab_size_keeps_most_frequent_words(tmp_path):
  """<unk> counts and is first. Equally frequent words are in alphabetical order."""
  for split in SPLITS:
    write_text(tmp_path / f"{split}.txt", "c a b c a b c\n")
  corpus = corpus_data.load_words("files", str(tmp_path), vocab_size=3)
  assert corpus.vocabulary.words == ["<unk>", "c", "a"]
  assert decode_splits(corpus)[0] == ["c", "a", "<unk>", "c", "a", "<unk>", "c", "<unk>"]


def test_strip_removes_spaces_around_lines(tmp_path):
  for split in SPLITS:
    write_text(tmp_path / f"{split}.txt", "  a b \n\n\tb  a\t\n")
  assert (
    split_texts(corpus_data.load_characters("files", str(tmp_path), strip_lines=True))
    == ["a b\n\nb  a\n"] * 3
  )
  assert (
    split_texts(corpus_data.load_characters("files", str(tmp_path))) == ["  a b \n\n\tb  a\t\n"] * 3
  )


def test_raw_mode_preserves_arbitrary_bytes(tmp_path):
  """Without byte_level, the message names the invalid byte and the flag."""
  data = bytes(range(256)) * 3
  path = write_text(tmp_path / "noise.txt", data)
  texts = split_texts(corpus_data.load_characters("files", path, byte_level=True))
  assert sorted("".join(texts).encode("latin-1")) == sorted(data)
  with pytest.raises(
    InvalidInputError, match=r"noise\.txt:2 is not UTF-8: .* at byte 117 .*--byte_level"
  ):
    corpus_data.load_characters("files", path)


def test_embedded_text_and_fallback_warning(caplog):
  """--dataset=auto warns. Words that occur only once are <unk>."""
  path = pathlib.Path(corpus_data.__file__).with_name("hello.txt")
  corpus = corpus_data.load_characters("embedded", "")
  assert sorted("".join(split_texts(corpus))) == sorted(path.read_text())
  assert not caplog.text
  assert split_texts(corpus_data.load_characters("auto", "")) == split_texts(corpus)
  assert "--text_file=FILE" in caplog.text
  train, *_ = decode_splits(corpus_data.load_words("embedded", ""))
  counts = collections.Counter(train)
  assert min(counts.values()) >= 2
  assert {"hello", "mouse", ",", "<eos>", "<unk>"} <= counts.keys()


def test_reviews_are_concatenated_with_eos(tmp_path):
  """Lower-case words; the numbers of the held-out reviews are unknown."""
  for split in ("train", "test"):
    rows = [{"text": f"Number {n}, <br />isn't it?", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  corpus = corpus_data.load_words("reviews", str(tmp_path))
  review = lambda n: ["number", str(n) if n < 36 else "<unk>", ",", "isn't", "it", "?", "<eos>"]
  train, valid, test = decode_splits(corpus)
  assert test == list(itertools.chain(*map(review, range(40))))
  assert valid == review(36) * 4
  assert sorted(train) == sorted(itertools.chain(*map(review, range(36))))


@pytest.mark.parametrize("layout", ["folder", "lines"])
def test_unlabeled_reviews_extend_training_set(tmp_path, layout):
  """They are appended to the training set of language models only."""
  for split in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  before = decode_splits(corpus_data.load_words("reviews", str(tmp_path)))
  if layout == "folder":
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
  for split in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write_text(tmp_path / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  write_text(tmp_path / "unsup.jsonl", '{"txt": "lost"}\n')
  with pytest.raises(InvalidInputError, match=r"unsup.jsonl:1 must be .*lost"):
    corpus_data.load_words("reviews", str(tmp_path))


def write_two_texts(folder):
  for name in "ab":
    write_text(folder / f"{name}.txt", "some words\n" * 50)
  return folder


@pytest.mark.parametrize("load", [corpus_data.load_characters, corpus_data.load_words])
@pytest.mark.parametrize(
  "make, message",
  [
    (
      write_two_texts,
      r"must hold either one text, or one file each .* holds \['a\.txt', 'b\.txt'\]",
    ),
    (lambda folder: folder, r"must hold either one text.* holds \[\]"),
    (lambda folder: folder / "nowhere", r"must be a file or a folder that exists; got '.*nowhere'"),
    (
      lambda folder: write_text(folder / "no.txt", ""),
      r"the train set of no\.txt must have at least 2 tokens; got 0",
    ),
    (
      lambda folder: write_text(folder / "no.txt.gz", ""),
      r"the train set of no\.txt\.gz must have at least 2 tokens; got 0",
    ),
    (
      lambda folder: write_text(folder / "a.txt", "a"),
      r"set of a\.txt must have at least 2 tokens; got [01].* too short",
    ),
    (
      lambda folder: write_text(folder / "a.gz", "?")[:-2] + "txt",
      "must be a file or a folder that exists",
    ),
  ],
)
def test_invalid_text_files_raise(tmp_path, load, make, message):
  with pytest.raises(InvalidInputError, match=message):
    load("files", str(make(tmp_path)))


def test_unknown_dataset_raises():
  with pytest.raises(
    InvalidInputError, match=r"dataset must be one of \('auto', .*\); got 'linux'"
  ):
    corpus_data.load_characters("linux", "")


def test_bptt_batches_of_each_split(tmp_path):
  """All training tokens have weight 1. In evaluation each column first reads unscored context."""
  text = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  splits = corpus_data.make_batches(text, 4, 5, seed=1)
  assert all(batch["weights"].all() for batch in itertools.islice(splits.train.stream(), 50))
  for split in ("valid", "test"):
    weight = sum(batch["weights"].sum() for batch in getattr(splits, split))
    assert weight == len(getattr(text, split)) - 1
  first = next(iter(splits.test))  # 53 pairs in 4 columns: the second column has those from 14 on
  np.testing.assert_array_equal(first["tokens"][:, 1], text.test[9:15])
  assert not first["weights"].any()


def test_too_short_split_raises(tmp_path):
  """The validation set has 27 characters. The message names the corpus and the flag that helps."""
  text = corpus_data.load_characters("files", write_text(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  message = r"^mine\.txt: a text of 27 tokens cannot fill .* 28 columns; .* smaller --batch_size"
  corpus_data.make_batches(text, 27, 5, seed=1)
  with pytest.raises(InvalidInputError, match=message):
    corpus_data.make_batches(text, 28, 5, seed=1)


def test_unknown_character_raises_without_unk():
  vocabulary = Vocabulary.from_texts(["abcab"], specials=())
  assert vocabulary.decode(vocabulary.encode("cab")) == [*"cab"]
  with pytest.raises(
    InvalidInputError, match=r"^\['x', 'y'\] do not occur .*, which has 3 symbols"
  ):
    vocabulary.encode("axbyx")
  with_unk = Vocabulary.from_texts(["abcab"], specials=("<unk>",))
  np.testing.assert_array_equal(with_unk.encode("axb"), [1, 0, 2])

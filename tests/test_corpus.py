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
from rnnjax.types import BadInput

PARTS = ("train", "valid", "test")


def decoded(text):
  """The three parts of a corpus as lists of symbols."""
  return [text.vocabulary.decode(getattr(text, part)) for part in PARTS]


def joined(text):
  return ["".join(part) for part in decoded(text)]


def write(path, text):
  path.parent.mkdir(exist_ok=True)
  raw = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
  return str(path)


def test_characters_of_one_file(tmp_path):
  """The last 10 % for the test, five hundredths far apart held out: of characters, not bytes."""
  draw = np.random.default_rng(0)
  text = "".join(draw.choice([*"abc é\n—"], 1000))
  read = corpus_data.characters("files", write(tmp_path / "mine.txt", text))
  held = [text[a : a + 10] for a in (80, 260, 440, 620, 800)]
  ends = [(0, 80), (90, 260), (270, 440), (450, 620), (630, 800), (810, 900)]
  rest = [text[a:b] for a, b in ends]
  assert joined(read) == ["".join(rest), "".join(held), text[900:]]
  assert sorted(read.vocabulary.words) == sorted(set(text))
  assert read.name == "mine.txt"


def test_tokens_of_one_file(tmp_path):
  """The same cut; words end at blanks and lines with <eos>; what training never saw is <unk>."""
  lines = [f"{n % 7:04} {n:04}\n" for n in range(100)]
  read = corpus_data.tokens("auto", write(tmp_path / "mine.txt", "".join(lines)))
  known = lambda numbers: [w for n in numbers for w in (f"{n % 7:04}", f"{n:04}", "<eos>")]
  train, *rest = decoded(read)
  held = (8, 26, 44, 62, 80)
  assert train == known(n for n in range(90) if n not in held)
  strange = lambda numbers: [w if n % 3 != 1 else "<unk>" for n, w in enumerate(known(numbers))]
  assert rest == [strange(held), strange(range(90, 100))]


def test_an_empty_line_is_its_end(tmp_path):
  for part in PARTS:
    write(tmp_path / f"{part}.txt", "a b\n\n  a\n")
  expected = ["a", "b", "<eos>", "<eos>", "a", "<eos>"]
  assert decoded(corpus_data.tokens("files", str(tmp_path))) == [expected] * 3


@pytest.mark.parametrize("endings", [("", "", ""), (".gz", "", ".gz")])
def test_a_folder_of_three_parts(tmp_path, endings):
  """As the Penn Treebank has them, compressed or not, with whatever else lies there."""
  folder = tmp_path / "ptb"
  texts = ["a <unk> b a\nb\n", "b new\n", "a a\nnew b"]
  for part, text, ending in zip(PARTS, texts, endings, strict=True):
    write(folder / f"ptb.{part}.txt{ending}", text)
  write(folder / "readme.txt", "not a part")
  words = corpus_data.tokens("files", str(folder))
  assert words.name == "ptb"
  assert decoded(words) == [
    ["a", "<unk>", "b", "a", "<eos>", "b", "<eos>"],
    ["b", "<unk>", "<eos>"],
    ["a", "a", "<eos>", "<unk>", "b", "<eos>"],
  ]
  assert joined(corpus_data.characters("files", str(folder))) == texts


def test_a_folder_of_one_text(tmp_path):
  """It is cut as the file alone is."""
  path = write(tmp_path / "one" / "text.txt.gz", "abc\n" * 50)
  alone, inside = (corpus_data.characters("files", p) for p in (path, str(tmp_path / "one")))
  train, valid, test = joined(alone)
  assert joined(inside) == [train, valid, test]
  assert (valid, test) == ("ab" + "ab" * 4, "abc\n" * 5)


def test_size_keeps_the_most_frequent(tmp_path):
  """<unk> counts, and is first; of words equally frequent the alphabet decides."""
  for part in PARTS:
    write(tmp_path / f"{part}.txt", "c a b c a b c\n")
  words = corpus_data.tokens("files", str(tmp_path), size=3)
  assert words.vocabulary.words == ["<unk>", "c", "a"]
  assert decoded(words)[0] == ["c", "a", "<unk>", "c", "a", "<unk>", "c", "<unk>"]


def test_strip_drops_the_blanks_of_each_line(tmp_path):
  for part in PARTS:
    write(tmp_path / f"{part}.txt", "  a b \n\n\tb  a\t\n")
  assert joined(corpus_data.characters("files", str(tmp_path), strip=True)) == ["a b\n\nb  a\n"] * 3
  assert joined(corpus_data.characters("files", str(tmp_path))) == ["  a b \n\n\tb  a\t\n"] * 3


def test_bytes_of_any_encoding(tmp_path):
  """raw gives back each byte; without, the place that is not UTF-8 is named, and what to do."""
  raw = bytes(range(256)) * 3
  path = write(tmp_path / "noise.txt", raw)
  read = joined(corpus_data.characters("files", path, raw=True))
  assert sorted("".join(read).encode("latin-1")) == sorted(raw)
  with pytest.raises(BadInput, match=r"noise\.txt:2 is not UTF-8: .* at byte 117 .*--bytes"):
    corpus_data.characters("files", path)


def test_the_embedded_text(caplog):
  """It comes along, whole; auto takes it with a warning, and of its words those seen twice."""
  path = pathlib.Path(corpus_data.__file__).with_name("hello.txt")
  read = corpus_data.characters("embedded", "")
  assert sorted("".join(joined(read))) == sorted(path.read_text())
  assert not caplog.text
  assert joined(corpus_data.characters("auto", "")) == joined(read)
  assert "--text=FILE" in caplog.text
  train, *_ = decoded(corpus_data.tokens("embedded", ""))
  counts = collections.Counter(train)
  assert min(counts.values()) >= 2
  assert {"hello", "mouse", ",", "<eos>", "<unk>"} <= counts.keys()


def test_reviews_one_after_the_other(tmp_path):
  """Lower-case words, <eos> after each; the end of training is held out, its numbers unknown."""
  for part in ("train", "test"):
    rows = [{"text": f"Number {n}, <br />isn't it?", "label": n % 2} for n in range(40)]
    write(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  read = corpus_data.tokens("reviews", str(tmp_path))
  review = lambda n: ["number", str(n) if n < 36 else "<unk>", ",", "isn't", "it", "?", "<eos>"]
  train, valid, test = decoded(read)
  assert test == list(itertools.chain(*map(review, range(40))))
  assert valid == review(36) * 4
  assert sorted(train) == sorted(itertools.chain(*map(review, range(36))))


@pytest.mark.parametrize("kind", ["folder", "lines"])
def test_reviews_without_a_label_are_learnt_from(tmp_path, kind):
  """They come after those with one, in training alone, and classify nothing."""
  for part in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  before = decoded(corpus_data.tokens("reviews", str(tmp_path)))
  if kind == "folder":
    folder = tmp_path / "train" / "unsup"
    folder.mkdir(parents=True)
    for n in (10, 9):
      write(folder / f"{n}_0.txt", f"unlike {n}")
  else:
    rows = [{"text": "unlike 9"}, {"text": "unlike 10", "label": None}]
    write(tmp_path / "unsup.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))
  train, *rest = decoded(corpus_data.tokens("reviews", str(tmp_path)))
  assert train == [*before[0], "unlike", "9", "<eos>", "unlike", "10", "<eos>"]
  assert rest == before[1:]
  assert len(imdb_data.load(data_dir=str(tmp_path)).train) == 36


def test_a_review_without_text_is_named(tmp_path):
  for part in ("train", "test"):
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(40)]
    write(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  write(tmp_path / "unsup.jsonl", '{"txt": "lost"}\n')
  with pytest.raises(BadInput, match=r"unsup.jsonl:1 must be .*lost"):
    corpus_data.tokens("reviews", str(tmp_path))


def two_texts(folder):
  for name in "ab":
    write(folder / f"{name}.txt", "some words\n" * 50)
  return folder


@pytest.mark.parametrize("read", [corpus_data.characters, corpus_data.tokens])
@pytest.mark.parametrize(
  "make, message",
  [
    (two_texts, r"must hold either one text, or one file each .* holds \['a\.txt', 'b\.txt'\]"),
    (lambda folder: folder, r"must hold either one text.* holds \[\]"),
    (lambda folder: folder / "nowhere", r"neither a file nor a folder '.*nowhere'"),
    (lambda folder: write(folder / "no.txt", ""), r"the train part of no\.txt has 0 tokens"),
    (lambda folder: write(folder / "no.txt.gz", ""), r"the train part of no\.txt\.gz has 0 tokens"),
    (lambda folder: write(folder / "a.txt", "a"), r"part of a\.txt has [01] tokens.* too short"),
    (lambda folder: write(folder / "a.gz", "?")[:-2] + "txt", "neither a file nor a folder"),
  ],
)
def test_bad_texts_are_named(tmp_path, read, make, message):
  with pytest.raises(BadInput, match=message):
    read("files", str(make(tmp_path)))


def test_an_unknown_dataset():
  with pytest.raises(BadInput, match=r"dataset must be one of \('auto', .*\); got 'linux'"):
    corpus_data.characters("linux", "")


def test_columns_of_each_part(tmp_path):
  """Training goes round; the others are weighed whole, each column with a window before it."""
  text = corpus_data.characters("files", write(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  parts = corpus_data.columns(text, 4, 5, seed=1)
  assert all(batch["weights"].all() for batch in itertools.islice(parts.train.stream(), 50))
  for part in ("valid", "test"):
    weight = sum(batch["weights"].sum() for batch in getattr(parts, part))
    assert weight == len(getattr(text, part)) - 1
  first = next(iter(parts.test))  # 53 pairs in 4 columns: the second column has those from 14 on
  np.testing.assert_array_equal(first["tokens"][:, 1], text.test[9:15])
  assert not first["weights"].any()


def test_columns_of_a_short_part(tmp_path):
  """27 characters are to be validated: the corpus is named, and the flag that helps."""
  text = corpus_data.characters("files", write(tmp_path / "mine.txt", "abcdefgh\n" * 60))
  message = r"^mine\.txt: a text of 27 tokens cannot fill .* 28 columns; .* smaller --batch"
  corpus_data.columns(text, 27, 5, seed=1)
  with pytest.raises(BadInput, match=message):
    corpus_data.columns(text, 28, 5, seed=1)


def test_characters_have_nothing_for_the_unknown():
  """Without <unk> among the specials a strange symbol is an error that names it."""
  vocabulary = Vocabulary.of(["abcab"], specials=())
  assert vocabulary.decode(vocabulary.encode("cab")) == [*"cab"]
  with pytest.raises(BadInput, match=r"^\['x', 'y'\] do not occur .*, which has 3 symbols"):
    vocabulary.encode("axbyx")
  known = Vocabulary.of(["abcab"], specials=("<unk>",))
  np.testing.assert_array_equal(known.encode("axb"), [1, 0, 2])

"""Reviews in a table: columns by name, classes as numbers, parts by the text, and a run."""

import csv
import gzip
import json

import numpy as np
import pytest

from experiments.imdb import Config, run
from experiments.seq2seq import data as pairs_data
from experiments.text_classification import data as imdb_data
from rnnjax.types import InvalidInputError


def make_reviews(number=200, stars=("10", "9", "2", "4.5")):
  return [(f"review {n}, as said", stars[n % len(stars)]) for n in range(number)]


def write_csv(path, rows, header=("Review Text", "Rating"), opener=open):
  with opener(path, "wt", newline="") as file:
    writer = csv.writer(file)
    writer.writerows([("", *header), *((n, *row) for n, row in enumerate(rows))])
  return str(path)


def test_csv_and_jsonl_give_same_reviews(tmp_path):
  """CSV, compressed CSV and JSON lines; classes are in the order of numbers."""
  rows = make_reviews()
  plain = write_csv(tmp_path / "a.csv", rows)
  zipped = write_csv(tmp_path / "b.csv.gz", rows, opener=gzip.open)
  lines = tmp_path / "c.jsonl"
  lines.write_text("\n".join(json.dumps({"text": t, "label": float(k)}) for t, k in rows))
  names = dict(text_column="Review Text", label_column="Rating")
  made = [imdb_data.load(data_dir=plain, **names), imdb_data.load(data_dir=zipped, **names)]
  made.append(imdb_data.load(data_dir=str(lines)))  # the columns of the defaults
  assert made[0].classes == ("2", "4.5", "9", "10")
  assert made[2].classes == ("2.0", "4.5", "9.0", "10.0")
  assert made[0][2:] == made[1][2:] == made[2][2:]
  every = [row for part in made[0][2:] for row in part]
  assert sorted((text, made[0].classes[label]) for text, label in every) == sorted(rows)


def test_splits_equal_those_of_pair_tables(tmp_path):
  """A review is in the part where its text is as a source."""
  path = write_csv(tmp_path / "a.csv", make_reviews())
  ours, theirs = (
    imdb_data.load_table(path, "Review Text", "Rating"),
    pairs_data.load_table(path, "Review Text", ""),
  )
  for part in ("train", "valid", "test"):
    assert [text for text, _ in getattr(ours, part)] == [text for text, _ in getattr(theirs, part)]


def test_title_is_prepended_to_text(tmp_path):
  """The last column divides, so that the parts stay what they are without titles."""
  rows = [(f"title {n}" if n % 2 else "", *row) for n, row in enumerate(make_reviews())]
  path = write_csv(tmp_path / "a.csv", rows, ("Title", "Review Text", "Rating"))
  bare = imdb_data.load_table(path, "Review Text", "Rating")
  full = imdb_data.load_table(path, "Title,Review Text", "Rating")
  titles = {text: f"{title} {text}".strip() for title, text, _ in rows}
  for part in ("train", "valid", "test"):
    assert getattr(full, part) == [(titles[text], n) for text, n in getattr(bare, part)]


def test_mostly_missing_titles(tmp_path):
  rows = [("one title" if n == 7 else "", *row) for n, row in enumerate(make_reviews())]
  parts = imdb_data.load_table(write_csv(tmp_path / "a.csv", rows, ("T", "X", "Y")), "T,X", "Y")[2:]
  (titled,) = [text for part in parts for text, _ in part if "title" in text]
  assert titled == f"one title {rows[7][1]}"


def test_numerically_equal_labels_are_sorted_as_text(tmp_path):
  """Not in that of a set, which changes from process to process."""
  names = ("1.0", "01", "1", "1.00", "001")
  path = write_csv(tmp_path / "a.csv", make_reviews(stars=names))
  assert imdb_data.load_table(path, "Review Text", "Rating").classes == tuple(sorted(names))


def test_invalid_table_raises(tmp_path):
  path = write_csv(tmp_path / "a.csv", make_reviews())
  with pytest.raises(
    InvalidInputError, match=r"'text' and 'label'; it has \['', 'Review Text', 'Rating'\]"
  ):
    imdb_data.load(data_dir=path)
  where = imdb_data.load(data_dir=path, text_column="Review Text", label_column="Rating").test[0][0]
  rows = [(text, "11" if text == where else stars) for text, stars in make_reviews()]
  with pytest.raises(
    InvalidInputError, match=rf"a\.csv, '{where}': the label '11' does not occur in train"
  ):
    imdb_data.load(
      data_dir=write_csv(tmp_path / "a.csv", rows), text_column="Review Text", label_column="Rating"
    )
  with pytest.raises(InvalidInputError, match="has but one label, '5'"):
    imdb_data.load_table(
      write_csv(tmp_path / "a.csv", make_reviews(stars=["5"])), "Review Text", "Rating"
    )
  with pytest.raises(InvalidInputError, match="must be a folder with train and test reviews"):
    imdb_data.load(data_dir=str(tmp_path / "nowhere.csv"))


def test_run_beats_majority_class(tmp_path):
  """Stars that the number of good words tells; one class is most frequent."""
  draw = np.random.default_rng(0)
  rows = []
  for n in range(900):
    stars = int(draw.choice([1, 3, 5], p=[0.2, 0.3, 0.5]))
    words = draw.permutation(["good"] * stars + ["bad"] * (6 - stars))
    rows.append((" ".join([f"number {n} is", *words]), stars))
  path = write_csv(tmp_path / "a.csv", rows)
  how = dict(
    cell="gru",
    hidden_size=16,
    batch_size=32,
    epochs=4,
    learning_rate=0.01,
    word_dropout=0.0,
    ngram_order=0,
  )
  scores = run(Config(data_dir=path, text_column="Review Text", label_column="Rating", **how))
  test = [label for _, label in imdb_data.load_table(path, "Review Text", "Rating").test]
  assert scores["test/majority"] == pytest.approx(np.mean(np.equal(test, 2)))
  assert scores["test/accuracy"] > 0.9 > scores["test/majority"]

"""Reviews in a table: columns by name, classes as numbers, parts by the text, and a run."""

import csv
import gzip
import json

import numpy as np
import pytest

from experiments.imdb import Config, run
from experiments.seq2seq import data as pairs_data
from experiments.text_classification import data as imdb_data
from rnnjax.types import BadInput


def reviews(number=200, stars=("10", "9", "2", "4.5")):
  return [(f"review {n}, as said", stars[n % len(stars)]) for n in range(number)]


def write(path, rows, header=("Review Text", "Rating"), opener=open):
  with opener(path, "wt", newline="") as file:
    writer = csv.writer(file)
    writer.writerows([("", *header), *((n, *row) for n, row in enumerate(rows))])
  return str(path)


def test_formats_agree(tmp_path):
  """CSV, compressed CSV and JSON lines; classes are in the order of numbers."""
  rows = reviews()
  plain = write(tmp_path / "a.csv", rows)
  zipped = write(tmp_path / "b.csv.gz", rows, opener=gzip.open)
  lines = tmp_path / "c.jsonl"
  lines.write_text("\n".join(json.dumps({"text": t, "label": float(k)}) for t, k in rows))
  names = dict(text="Review Text", label="Rating")
  made = [imdb_data.load(data_dir=plain, **names), imdb_data.load(data_dir=zipped, **names)]
  made.append(imdb_data.load(data_dir=str(lines)))  # the columns of the defaults
  assert made[0].classes == ("2", "4.5", "9", "10")
  assert made[2].classes == ("2.0", "4.5", "9.0", "10.0")
  assert made[0][2:] == made[1][2:] == made[2][2:]
  every = [row for part in made[0][2:] for row in part]
  assert sorted((text, made[0].classes[label]) for text, label in every) == sorted(rows)


def test_parts_are_those_of_pairs(tmp_path):
  """A review is in the part where its text is as a source."""
  path = write(tmp_path / "a.csv", reviews())
  ours, theirs = (
    imdb_data.table(path, "Review Text", "Rating"),
    pairs_data.table(path, "Review Text", ""),
  )
  for part in ("train", "valid", "test"):
    assert [text for text, _ in getattr(ours, part)] == [text for text, _ in getattr(theirs, part)]


def test_titles_stand_before_the_texts_that_have_one(tmp_path):
  """The last column divides, so that the parts stay what they are without titles."""
  rows = [(f"title {n}" if n % 2 else "", *row) for n, row in enumerate(reviews())]
  path = write(tmp_path / "a.csv", rows, ("Title", "Review Text", "Rating"))
  bare = imdb_data.table(path, "Review Text", "Rating")
  full = imdb_data.table(path, "Title,Review Text", "Rating")
  titles = {text: f"{title} {text}".strip() for title, text, _ in rows}
  for part in ("train", "valid", "test"):
    assert getattr(full, part) == [(titles[text], n) for text, n in getattr(bare, part)]


def test_few_titles_are_enough(tmp_path):
  rows = [("one title" if n == 7 else "", *row) for n, row in enumerate(reviews())]
  parts = imdb_data.table(write(tmp_path / "a.csv", rows, ("T", "X", "Y")), "T,X", "Y")[2:]
  (titled,) = [text for part in parts for text, _ in part if "title" in text]
  assert titled == f"one title {rows[7][1]}"


def test_labels_of_one_number_are_in_the_order_of_their_texts(tmp_path):
  """Not in that of a set, which changes from process to process."""
  names = ("1.0", "01", "1", "1.00", "001")
  path = write(tmp_path / "a.csv", reviews(stars=names))
  assert imdb_data.table(path, "Review Text", "Rating").classes == tuple(sorted(names))


def test_bad_tables_are_named(tmp_path):
  path = write(tmp_path / "a.csv", reviews())
  with pytest.raises(BadInput, match=r"'text' and 'label'; it has \['', 'Review Text', 'Rating'\]"):
    imdb_data.load(data_dir=path)
  where = imdb_data.load(data_dir=path, text="Review Text", label="Rating").test[0][0]
  rows = [(text, "11" if text == where else stars) for text, stars in reviews()]
  with pytest.raises(BadInput, match=rf"a\.csv, '{where}': the label '11' does not occur in train"):
    imdb_data.load(data_dir=write(tmp_path / "a.csv", rows), text="Review Text", label="Rating")
  with pytest.raises(BadInput, match="has but one label, '5'"):
    imdb_data.table(write(tmp_path / "a.csv", reviews(stars=["5"])), "Review Text", "Rating")
  with pytest.raises(BadInput, match="must be a folder with train and test reviews"):
    imdb_data.load(data_dir=str(tmp_path / "nowhere.csv"))


def test_a_run_beside_the_majority(tmp_path):
  """Stars that the number of good words tells; one class is most frequent."""
  draw = np.random.default_rng(0)
  rows = []
  for n in range(900):
    stars = int(draw.choice([1, 3, 5], p=[0.2, 0.3, 0.5]))
    words = draw.permutation(["good"] * stars + ["bad"] * (6 - stars))
    rows.append((" ".join([f"number {n} is", *words]), stars))
  path = write(tmp_path / "a.csv", rows)
  how = dict(cell="gru", hidden=16, batch=32, epochs=4, rate=0.01, word_dropout=0.0, evidence=0)
  scores = run(Config(data_dir=path, text="Review Text", label="Rating", **how))
  test = [label for _, label in imdb_data.table(path, "Review Text", "Rating").test]
  assert scores["test/majority"] == pytest.approx(np.mean(np.equal(test, 2)))
  assert scores["test/accuracy"] > 0.9 > scores["test/majority"]

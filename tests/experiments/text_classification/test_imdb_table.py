"""Reviews in tables: columns, classes, splits, and a training run."""

import csv
import gzip
import json

import numpy as np
import pytest

from experiments.imdb import Config, run
from experiments.seq2seq import data as pairs_data
from experiments.text_classification import data as imdb_data
from rnnjax.types import InvalidInputError


def make_reviews(num_reviews=200, stars=("10", "9", "2", "4.5")):
  return [(f"review {n}, as said", stars[n % len(stars)]) for n in range(num_reviews)]


def write_csv(path, rows, header=("Review Text", "Rating"), opener=open):
  with opener(path, "wt", newline="") as file:
    writer = csv.writer(file)
    writer.writerows([("", *header), *((n, *row) for n, row in enumerate(rows))])
  return str(path)


def test_csv_and_jsonl_give_same_reviews(tmp_path):
  """CSV, compressed CSV and JSON lines. Classes are in numeric order."""
  rows = make_reviews()
  csv_path = write_csv(tmp_path / "a.csv", rows)
  gz_path = write_csv(tmp_path / "b.csv.gz", rows, opener=gzip.open)
  jsonl_path = tmp_path / "c.jsonl"
  jsonl_path.write_text("\n".join(json.dumps({"text": t, "label": float(k)}) for t, k in rows))
  names = dict(text_column="Review Text", label_column="Rating")
  datasets = [imdb_data.load(data_dir=csv_path, **names), imdb_data.load(data_dir=gz_path, **names)]
  datasets.append(imdb_data.load(data_dir=str(jsonl_path)))  # the columns of the defaults
  assert datasets[0].classes == ("2", "4.5", "9", "10")
  assert datasets[2].classes == ("2.0", "4.5", "9.0", "10.0")
  assert datasets[0][2:] == datasets[1][2:] == datasets[2][2:]
  examples = [row for split in datasets[0][2:] for row in split]
  assert sorted((text, datasets[0].classes[label]) for text, label in examples) == sorted(rows)


def test_splits_equal_those_of_pair_tables(tmp_path):
  """The split of a review depends only on its text."""
  path = write_csv(tmp_path / "a.csv", make_reviews())
  reviews, pairs = (
    imdb_data.load_table(path, "Review Text", "Rating"),
    pairs_data.load_table(path, "Review Text", ""),
  )
  for split in ("train", "valid", "test"):
    assert [text for text, _ in getattr(reviews, split)] == [
      text for text, _ in getattr(pairs, split)
    ]


def test_title_is_prepended_to_text(tmp_path):
  """Only the last column determines the split, so titles do not change the splits."""
  rows = [(f"title {n}" if n % 2 else "", *row) for n, row in enumerate(make_reviews())]
  path = write_csv(tmp_path / "a.csv", rows, ("Title", "Review Text", "Rating"))
  without_titles = imdb_data.load_table(path, "Review Text", "Rating")
  with_titles = imdb_data.load_table(path, "Title,Review Text", "Rating")
  titles = {text: f"{title} {text}".strip() for title, text, _ in rows}
  for split in ("train", "valid", "test"):
    assert getattr(with_titles, split) == [
      (titles[text], n) for text, n in getattr(without_titles, split)
    ]


def test_mostly_missing_titles(tmp_path):
  rows = [("one title" if n == 7 else "", *row) for n, row in enumerate(make_reviews())]
  splits = imdb_data.load_table(write_csv(tmp_path / "a.csv", rows, ("T", "X", "Y")), "T,X", "Y")[
    2:
  ]
  (titled,) = [text for split in splits for text, _ in split if "title" in text]
  assert titled == f"one title {rows[7][1]}"


def test_numerically_equal_labels_are_sorted_as_text(tmp_path):
  """The order does not depend on that of a set, which varies between processes."""
  names = ("1.0", "01", "1", "1.00", "001")
  path = write_csv(tmp_path / "a.csv", make_reviews(stars=names))
  assert imdb_data.load_table(path, "Review Text", "Rating").classes == tuple(sorted(names))


def test_invalid_table_raises(tmp_path):
  path = write_csv(tmp_path / "a.csv", make_reviews())
  with pytest.raises(
    InvalidInputError, match=r"'text' and 'label'; it has \['', 'Review Text', 'Rating'\]"
  ):
    imdb_data.load(data_dir=path)
  first_text = imdb_data.load(data_dir=path, text_column="Review Text", label_column="Rating").test[
    0
  ][0]
  rows = [(text, "11" if text == first_text else stars) for text, stars in make_reviews()]
  with pytest.raises(
    InvalidInputError,
    match=rf"a\.csv, '{first_text}': the label '11' does not occur in the training set",
  ):
    imdb_data.load(
      data_dir=write_csv(tmp_path / "a.csv", rows), text_column="Review Text", label_column="Rating"
    )
  with pytest.raises(InvalidInputError, match="has only one label, '5'"):
    imdb_data.load_table(
      write_csv(tmp_path / "a.csv", make_reviews(stars=["5"])), "Review Text", "Rating"
    )
  with pytest.raises(InvalidInputError, match="must be a folder with train and test reviews"):
    imdb_data.load(data_dir=str(tmp_path / "nowhere.csv"))


def test_run_beats_majority_class(tmp_path):
  """The number of good words determines the stars; one class is most frequent."""
  rng = np.random.default_rng(0)
  rows = []
  for n in range(900):
    stars = int(rng.choice([1, 3, 5], p=[0.2, 0.3, 0.5]))
    words = rng.permutation(["good"] * stars + ["bad"] * (6 - stars))
    rows.append((" ".join([f"number {n} is", *words]), stars))
  path = write_csv(tmp_path / "a.csv", rows)
  options = dict(
    cell="gru",
    hidden_size=16,
    batch_size=32,
    epochs=4,
    learning_rate=0.01,
    word_dropout=0.0,
    ngram_order=0,
  )
  scores = run(Config(data_dir=path, text_column="Review Text", label_column="Rating", **options))
  test = [label for _, label in imdb_data.load_table(path, "Review Text", "Rating").test]
  assert scores["test/majority"] == pytest.approx(np.mean(np.equal(test, 2)))
  assert scores["test/accuracy"] > 0.9 > scores["test/majority"]

"""Film reviews from files: formats, splits and malformed files."""

import gzip
import json

import numpy as np
import pytest

from experiments.text_classification import data as imdb_data
from rnnjax.data.labeled_texts import split_validation
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary, tokenize_lower
from rnnjax.types import InvalidInputError

ROWS = [(f"review number {n} is {'good' if n % 2 else 'bad'}", n % 2) for n in range(40)]


def write_lines(folder, split="train", rows=ROWS, opener=open, suffix=""):
  folder.mkdir(exist_ok=True)
  with opener(folder / f"{split}.jsonl{suffix}", "wt") as file:
    file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


def write_folders(folder, split, rows=ROWS):
  for n, (text, label) in enumerate(rows):
    path = folder / split / ("neg", "pos")[label] / f"{n}_7.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_formats_give_same_reviews(tmp_path):
  """JSON lines, compressed JSON lines and the folders of aclImdb."""
  for split in ("train", "test"):
    write_lines(tmp_path / "lines", split)
    write_lines(tmp_path / "zipped", split, opener=gzip.open, suffix=".gz")
    write_folders(tmp_path / "folders", split)
  datasets = [
    imdb_data.load(data_dir=str(tmp_path / kind)) for kind in ("lines", "zipped", "folders")
  ]
  splits = [[sorted(split) for split in (r.train, r.valid, r.test)] for r in datasets]
  assert splits[0] == splits[1] == splits[2]
  assert datasets[2].classes == ("neg", "pos")
  assert sorted(datasets[0].train + datasets[0].valid) == sorted(ROWS)
  assert datasets[0].test == ROWS


def test_validation_set_is_last_tenth_of_each_class(tmp_path):
  """Neighboring reviews, which are of the same film, are in the same set."""
  for split in ("train", "test"):
    write_lines(tmp_path, split)
  reviews = imdb_data.load(data_dir=str(tmp_path))
  assert sorted(reviews.valid) == sorted(ROWS[-4:])


def test_class_with_one_review_stays_in_training():
  train, valid = split_validation([("a", 0), ("b", 0), ("c", 1)])
  assert (train, valid) == ([("a", 0), ("c", 1)], [("b", 0)])
  with pytest.raises(InvalidInputError, match="2 training reviews are too few"):
    split_validation([("a", 0), ("c", 1)])


def test_star_classes_are_in_numeric_order(tmp_path):
  rows = [(f"text {n}", stars) for n, stars in enumerate([10, 9, 2, 1] * 5)]
  for split in ("train", "test"):
    write_lines(tmp_path, split, rows)
  reviews = imdb_data.load(data_dir=str(tmp_path))
  assert reviews.classes == ("1", "2", "9", "10")
  assert [label for _, label in reviews.test[:4]] == [3, 2, 1, 0]


@pytest.mark.parametrize(
  "line, message",
  [
    (b'{"review": "fine", "label": 1}', r'train\.jsonl:41 must be \{"text"'),
    (b'{"text": "fine"}', r"train\.jsonl:41 must be"),
    (b'{"text": 7, "label": 1}', r"train\.jsonl:41 must be"),
  ],
)
def test_malformed_line_raises(tmp_path, line, message):
  for split in ("train", "test"):
    write_lines(tmp_path, split)
  with open(tmp_path / "train.jsonl", "ab") as file:
    file.write(line + b"\n")
  with pytest.raises(InvalidInputError, match=message):
    imdb_data.load(data_dir=str(tmp_path))


def test_label_unseen_in_training_raises(tmp_path):
  write_lines(tmp_path, "train")
  write_lines(tmp_path, "test", [("fine", 1), ("odd", 7)])
  with pytest.raises(
    InvalidInputError, match=r"test\.jsonl:2: the label '7' does not occur in the training set"
  ):
    imdb_data.load(data_dir=str(tmp_path))


def test_missing_files_raise(tmp_path):
  with pytest.raises(InvalidInputError, match=r"must be a folder.*nowhere"):
    imdb_data.load(data_dir=str(tmp_path / "nowhere"))
  with pytest.raises(InvalidInputError, match=r"neither train\.jsonl .* holds \[\]"):
    imdb_data.load(data_dir=str(tmp_path))
  write_lines(tmp_path, "train")
  with pytest.raises(InvalidInputError, match=r"neither test\.jsonl"):
    imdb_data.load(data_dir=str(tmp_path))


def test_empty_review_is_kept_with_warning(tmp_path, caplog):
  for split in ("train", "test"):
    write_lines(tmp_path, split, [*ROWS, ("", 1)])
  assert ("", 1) in imdb_data.load(data_dir=str(tmp_path)).test
  assert "1 reviews are empty" in caplog.text
  assert "train.jsonl:41" in caplog.text


def test_explicit_dataset_does_not_fall_back(monkeypatch):
  monkeypatch.setattr(imdb_data, "DOWNLOAD_HOST", ("nowhere.invalid", 80))
  monkeypatch.setenv("TFDS_DATA_DIR", "/nonexistent")
  with pytest.raises(InvalidInputError, match=r"nowhere\.invalid cannot be reached"):
    imdb_data.load("imdb_reviews", data_dir="/nonexistent")


def test_vocabulary_ranks_by_frequency():
  """The most frequent word has the smallest id. Words beyond the size are unknown."""
  texts = [tokenize_lower("the film, the film, the end"), tokenize_lower("The end")]
  vocabulary = Vocabulary.from_texts(texts, vocab_size=5)
  assert vocabulary.words == ["<pad>", "<unk>", "the", ",", "end"]
  np.testing.assert_array_equal(
    vocabulary.encode(tokenize_lower("the film ends , end")), [2, 1, 1, 3, 4]
  )
  assert UNKNOWN == 1


def test_tokenization_keeps_negations_and_punctuation():
  assert tokenize_lower("I don't<br />like it!!") == ["i", "don't", "like", "it", "!", "!"]

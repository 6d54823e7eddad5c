"""IMDB as TensorFlow Datasets prepares it, read without TensorFlow."""

import json
import subprocess
import sys

import pytest

PREPARE = """
import sys
from tests.tiny_reviews import ImdbReviews
ImdbReviews(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""
READ = """
import json, sys
from rnnjax.data import imdb
reviews = imdb.load("auto")
assert "tensorflow" not in sys.modules
print(json.dumps(reviews))
"""


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("tfds"))
  subprocess.run([sys.executable, "-c", PREPARE, folder], check=True, capture_output=True)
  return folder


def test_prepared_reviews_are_read_without_tensorflow(tfds_dir, monkeypatch):
  """`auto` finds what tfds has prepared; texts are text, and no row is lost."""
  monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
  done = subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True, text=True)
  name, classes, train, valid, test = json.loads(done.stdout)
  assert name == "imdb_reviews"
  assert classes == ["negative", "positive"]
  assert sorted(train + valid) == sorted(
    [f"café number {n} is {'good' if n % 2 else 'bad'}", n % 2] for n in range(40)
  )
  assert len(test) == 10

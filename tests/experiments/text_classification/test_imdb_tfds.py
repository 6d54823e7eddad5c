"""IMDB as prepared by TensorFlow Datasets, read without TensorFlow."""

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
from experiments.text_classification import data
reviews = data.load("auto")
assert "tensorflow" not in sys.modules
print(json.dumps(reviews))
"""


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("tfds"))
  subprocess.run([sys.executable, "-c", PREPARE, folder], check=True, capture_output=True)
  return folder


def test_prepared_reviews_are_read_without_tensorflow(tfds_dir, monkeypatch):
  """Texts are str, and no review is lost."""
  monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
  process = subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True, text=True)
  name, classes, train, valid, test = json.loads(process.stdout)
  assert name == "imdb_reviews"
  assert classes == ["negative", "positive"]
  assert sorted(train + valid) == sorted(
    [f"café number {n} is {'good' if n % 2 else 'bad'}", n % 2] for n in range(40)
  )
  assert len(test) == 10

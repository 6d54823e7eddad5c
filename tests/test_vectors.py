"""Word vectors from a file: the rows of the vocabulary, and errors that name the line."""

import gzip

import numpy as np
import pytest

from rnnjax.data.vocabulary import Vocabulary
from rnnjax.interop import vectors
from rnnjax.types import BadInput

ROWS = "the 1 2 3\nof 4 5 6\nfilm -1 0.5 1e-1\n"
WORDS = Vocabulary(["film", "the", "unheard"])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_go_to_the_ids_of_their_words(tmp_path, suffix):
  path = tmp_path / f"glove.txt{suffix}"
  with (gzip.open if suffix else open)(path, "wt") as file:
    file.write(ROWS)
  table = vectors.read(str(path), WORDS)
  expected = np.float32([[-1, 0.5, 0.1], [1, 2, 3]])
  np.testing.assert_array_equal(table[WORDS.encode(["film", "the"])], expected)
  np.testing.assert_array_equal(table[0], np.zeros(3))
  assert np.isfinite(table).all() and table[WORDS.ids["unheard"]].any()


@pytest.mark.parametrize(
  "rows, message",
  [
    (ROWS + "late 1 2\n", r":4 has 2 numbers where the first row has 3"),
    ("the 1 two 3\n", r":1 is not a word and 3 numbers"),
    ("le 1 2 3\n", r"holds none of the 5 words"),
  ],
)
def test_a_broken_file_is_named(tmp_path, rows, message):
  path = tmp_path / "glove.txt"
  path.write_text(rows)
  with pytest.raises(BadInput, match=message):
    vectors.read(str(path), WORDS)


def test_a_missing_file_is_named():
  with pytest.raises(BadInput, match="no file of word vectors '/nowhere'"):
    vectors.read("/nowhere", WORDS)

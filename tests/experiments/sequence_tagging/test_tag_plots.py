"""Error tables and colored sentences."""

import re

import pytest

from experiments.sequence_tagging import plots

TRUE = ["S-PER O B-LOC E-LOC", "S-LOC O S-PER", "S-PER"]
PREDICTED = ["S-LOC O B-LOC E-LOC", "S-LOC O O", "S-LOC"]
RESET = "\033[0m"


def split_rows(rows):
  return [row.split() for row in rows]


def rows_by_type(table):
  """Return the cells of each row of an error table, by type."""
  return {name: rest for name, *rest in split_rows(table.splitlines()[1:])}


def test_span_error_table():
  """None of three persons is predicted; two are predicted as places and one as no span."""
  table = plots.error_table(split_rows(TRUE), split_rows(PREDICTED))
  assert table.splitlines()[0].split() == "true precision recall F1 taken for".split()
  assert rows_by_type(table) == {
    "PER": ["3", "0.000", "0.000", "LOC", "2,", "O", "1"],  # no precision without predictions
    "LOC": ["2", "0.500", "1.000", "0.667"],
  }
  assert [line.split()[0] for line in table.splitlines()[1:]] == ["PER", "LOC"]  # by count
  assert not any(line.endswith(" ") for line in table.splitlines())


def test_wrong_boundaries_and_false_types():
  """A span with other boundaries is a false negative and a false positive."""
  table = plots.error_table(split_rows(["B-LOC E-LOC O"]), split_rows(["S-LOC O S-ORG"]))
  assert rows_by_type(table) == {
    "LOC": ["1", "0.000", "0.000", "0.000", "O", "1"],
    "ORG": ["0", "0.000", "0.000"],
  }


def test_word_error_table():
  """Parts of speech are counted by word."""
  true, predicted = ["NOUN VERB NOUN", "NOUN"], ["NOUN VERB VERB", "NOUN"]
  assert rows_by_type(
    plots.error_table(split_rows(true), split_rows(predicted), plots.word_spans)
  ) == {
    "NOUN": ["3", "1.000", "0.667", "0.800", "VERB", "1"],
    "VERB": ["1", "0.500", "1.000", "0.667"],
  }


def test_top_three_confusions():
  true, predicted = [["N"] * 10], [[*"AABBBCCCCD"]]
  row = rows_by_type(plots.error_table(true, predicted, plots.word_spans))["N"]
  assert " ".join(row) == "10 0.000 0.000 C 4, B 3, A 2"


def test_colored_spans():
  """Spans are colored and labeled; then each word has a line."""
  words = "Teddy Roosevelt left Paris and Ann".split()
  text = plots.colored_sentence(
    words, "B-PER E-PER O S-LOC O S-PER".split(), [1, 0.5, 0.25, 0.125, 0, 0.9996]
  )
  first, *rows = text.splitlines()
  loc, per = (f"\033[{color}m" for color in plots.ANSI_COLORS[:2])
  teddy, ann = f"{per}Teddy Roosevelt{RESET}[PER]", f"{per}Ann{RESET}[PER]"
  assert first == f"{teddy} left {loc}Paris{RESET}[LOC] and {ann}"
  assert split_rows(rows) == [
    ["Teddy", "B-PER", "1.000"],
    ["Roosevelt", "E-PER", "0.500"],
    ["left", "O", "0.250"],
    ["Paris", "S-LOC", "0.125"],
    ["and", "O", "0.000"],
    ["Ann", "S-PER", "1.000"],
  ]
  assert len({len(row) for row in rows}) == 1  # in columns


def test_colored_words():
  """Each word is a span."""
  first, *_ = plots.colored_sentence(["a", "b"], ["X", "Y"], [1, 1], plots.word_spans).splitlines()
  one, two = (f"\033[{color}m" for color in plots.ANSI_COLORS[:2])
  assert first == f"{one}a{RESET}[X] {two}b{RESET}[Y]"


def test_colors_repeat_with_many_types():
  span_types = [f"T{n}" for n in range(len(plots.ANSI_COLORS) + 1)]
  text = plots.colored_sentence(span_types, span_types, [1] * len(span_types), plots.word_spans)
  *colors, last = re.findall(r"\033\[(\d\d)m", text)
  assert len(set(colors)) == len(colors) and last == colors[0]


@pytest.mark.parametrize("tag", ["B-PER", "B-person", "B-corporation"])
def test_tag_and_probability_are_separated(tag):
  """However long the name of the tag is."""
  *_, row = plots.colored_sentence(["Acme"], [tag], [0.5]).splitlines()
  assert row.split() == ["Acme", tag, "0.500"]

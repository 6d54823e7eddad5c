"""Where a tagger errs, and a sentence in colours: by hand."""

import re

import pytest

from experiments.sequence_tagging import plots

TRUE = ["S-PER O B-LOC E-LOC", "S-LOC O S-PER", "S-PER"]
FOUND = ["S-LOC O B-LOC E-LOC", "S-LOC O O", "S-LOC"]
END = "\033[0m"


def split_rows(rows):
  return [row.split() for row in rows]


def rows_by_type(table):
  """{type: what stands in its row}."""
  return {name: rest for name, *rest in split_rows(table.splitlines()[1:])}


def test_span_error_table():
  """Of three persons none is found, two are taken for places and one for nothing."""
  table = plots.error_table(split_rows(TRUE), split_rows(FOUND))
  assert table.splitlines()[0].split() == "true precision recall F1 taken for".split()
  assert rows_by_type(table) == {
    "PER": ["3", "0.000", "0.000", "LOC", "2,", "O", "1"],  # no precision where none was found
    "LOC": ["2", "0.500", "1.000", "0.667"],
  }
  assert [line.split()[0] for line in table.splitlines()[1:]] == ["PER", "LOC"]  # by number
  assert not any(line.endswith(" ") for line in table.splitlines())


def test_wrong_boundaries_and_false_types():
  """A span of other bounds is a miss and a find; a type that is nowhere true counts 0."""
  table = plots.error_table(split_rows(["B-LOC E-LOC O"]), split_rows(["S-LOC O S-ORG"]))
  assert rows_by_type(table) == {
    "LOC": ["1", "0.000", "0.000", "0.000", "O", "1"],
    "ORG": ["0", "0.000", "0.000"],
  }


def test_word_error_table():
  """Parts of speech count word by word: a noun taken for a verb is told as such."""
  true, found = ["NOUN VERB NOUN", "NOUN"], ["NOUN VERB VERB", "NOUN"]
  assert rows_by_type(plots.error_table(split_rows(true), split_rows(found), plots.word_spans)) == {
    "NOUN": ["3", "1.000", "0.667", "0.800", "VERB", "1"],
    "VERB": ["1", "0.500", "1.000", "0.667"],
  }


def test_top_three_confusions():
  true, found = [["N"] * 10], [[*"AABBBCCCCD"]]
  row = rows_by_type(plots.error_table(true, found, plots.word_spans))["N"]
  assert " ".join(row) == "10 0.000 0.000 C 4, B 3, A 2"


def test_colored_spans():
  """Each span in its type's colour with its name behind, the rest as it was; then each word."""
  words = "Teddy Roosevelt left Paris and Ann".split()
  shown = plots.colored_sentence(
    words, "B-PER E-PER O S-LOC O S-PER".split(), [1, 0.5, 0.25, 0.125, 0, 0.9996]
  )
  first, *rows = shown.splitlines()
  loc, per = (f"\033[{colour}m" for colour in plots.ANSI_COLORS[:2])
  assert first == f"{per}Teddy Roosevelt{END}[PER] left {loc}Paris{END}[LOC] and {per}Ann{END}[PER]"
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
  """Where each word is a piece of its own."""
  first, *_ = plots.colored_sentence(["a", "b"], ["X", "Y"], [1, 1], plots.word_spans).splitlines()
  one, two = (f"\033[{colour}m" for colour in plots.ANSI_COLORS[:2])
  assert first == f"{one}a{END}[X] {two}b{END}[Y]"


def test_colors_repeat_with_many_types():
  """The colours begin anew."""
  kinds = [f"T{n}" for n in range(len(plots.ANSI_COLORS) + 1)]
  shown = plots.colored_sentence(kinds, kinds, [1] * len(kinds), plots.word_spans)
  *colours, last = re.findall(r"\033\[(\d\d)m", shown)
  assert len(set(colours)) == len(colours) and last == colours[0]


@pytest.mark.parametrize("tag", ["B-PER", "B-person", "B-corporation"])
def test_tag_and_probability_are_separated(tag):
  """However long the tag's name."""
  *_, row = plots.colored_sentence(["Acme"], [tag], [0.5]).splitlines()
  assert row.split() == ["Acme", tag, "0.500"]

"""Where a tagger errs, and a sentence in colours: by hand."""

import re

import pytest

from experiments.sequence_tagging import plots

TRUE = ["S-PER O B-LOC E-LOC", "S-LOC O S-PER", "S-PER"]
FOUND = ["S-LOC O B-LOC E-LOC", "S-LOC O O", "S-LOC"]
END = "\033[0m"


def cut(rows):
  return [row.split() for row in rows]


def fields(table):
  """{type: what stands in its row}."""
  return {name: rest for name, *rest in cut(table.splitlines()[1:])}


def test_errors_of_spans():
  """Of three persons none is found, two are taken for places and one for nothing."""
  table = plots.errors(cut(TRUE), cut(FOUND))
  assert table.splitlines()[0].split() == "true precision recall F1 taken for".split()
  assert fields(table) == {
    "PER": ["3", "0.000", "0.000", "LOC", "2,", "O", "1"],  # no precision where none was found
    "LOC": ["2", "0.500", "1.000", "0.667"],
  }
  assert [line.split()[0] for line in table.splitlines()[1:]] == ["PER", "LOC"]  # by number
  assert not any(line.endswith(" ") for line in table.splitlines())


def test_what_is_found_alone_has_no_recall():
  """A span of other bounds is a miss and a find; a type that is nowhere true counts 0."""
  table = plots.errors(cut(["B-LOC E-LOC O"]), cut(["S-LOC O S-ORG"]))
  assert fields(table) == {
    "LOC": ["1", "0.000", "0.000", "0.000", "O", "1"],
    "ORG": ["0", "0.000", "0.000"],
  }


def test_errors_of_words():
  """Parts of speech count word by word: a noun taken for a verb is told as such."""
  true, found = ["NOUN VERB NOUN", "NOUN"], ["NOUN VERB VERB", "NOUN"]
  assert fields(plots.errors(cut(true), cut(found), plots.words)) == {
    "NOUN": ["3", "1.000", "0.667", "0.800", "VERB", "1"],
    "VERB": ["1", "0.500", "1.000", "0.667"],
  }


def test_three_at_most_are_told_the_most_frequent_first():
  true, found = [["N"] * 10], [[*"AABBBCCCCD"]]
  row = fields(plots.errors(true, found, plots.words))["N"]
  assert " ".join(row) == "10 0.000 0.000 C 4, B 3, A 2"


def test_coloured():
  """Each span in its type's colour with its name behind, the rest as it was; then each word."""
  words = "Teddy Roosevelt left Paris and Ann".split()
  shown = plots.coloured(
    words, "B-PER E-PER O S-LOC O S-PER".split(), [1, 0.5, 0.25, 0.125, 0, 0.9996]
  )
  first, *rows = shown.splitlines()
  loc, per = (f"\033[{colour}m" for colour in plots.COLOURS[:2])
  assert first == f"{per}Teddy Roosevelt{END}[PER] left {loc}Paris{END}[LOC] and {per}Ann{END}[PER]"
  assert cut(rows) == [
    ["Teddy", "B-PER", "1.000"],
    ["Roosevelt", "E-PER", "0.500"],
    ["left", "O", "0.250"],
    ["Paris", "S-LOC", "0.125"],
    ["and", "O", "0.000"],
    ["Ann", "S-PER", "1.000"],
  ]
  assert len({len(row) for row in rows}) == 1  # in columns


def test_coloured_words():
  """Where each word is a piece of its own."""
  first, *_ = plots.coloured(["a", "b"], ["X", "Y"], [1, 1], plots.words).splitlines()
  one, two = (f"\033[{colour}m" for colour in plots.COLOURS[:2])
  assert first == f"{one}a{END}[X] {two}b{END}[Y]"


def test_more_types_than_colours():
  """The colours begin anew."""
  kinds = [f"T{n}" for n in range(len(plots.COLOURS) + 1)]
  shown = plots.coloured(kinds, kinds, [1] * len(kinds), plots.words)
  *colours, last = re.findall(r"\033\[(\d\d)m", shown)
  assert len(set(colours)) == len(colours) and last == colours[0]


@pytest.mark.parametrize("tag", ["B-PER", "B-person", "B-corporation"])
def test_a_tag_and_its_probability_stand_apart(tag):
  """However long the tag's name."""
  *_, row = plots.coloured(["Acme"], [tag], [0.5]).splitlines()
  assert row.split() == ["Acme", tag, "0.500"]

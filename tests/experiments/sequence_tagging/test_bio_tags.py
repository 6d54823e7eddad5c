"""Tagging schemes against all divisions of short sentences into spans."""

import itertools

import numpy as np
import pytest

from experiments.sequence_tagging import bio_tags

TYPES = ("LOC", "PER")
SCHEMES = ("bio", "iob1", "iobes")


def span_divisions(length, types, start=0):
  """Yield all ways to place typed spans in a sentence, each as [(type, start, end), ...]."""
  if start == length:
    yield []
    return
  yield from span_divisions(length, types, start + 1)
  for end in range(start + 1, length + 1):
    for span_type, rest in itertools.product(types, list(span_divisions(length, types, end))):
      yield [(span_type, start, end), *rest]


def tags_of_spans(division, length, scheme):
  """Return the tags of spans, from the definitions of the three schemes."""
  tags = ["O"] * length
  for span_type, start, end in division:
    prefixes = ["I"] * (end - start)
    is_adjacent = any(other == span_type and other_end == start for other, _, other_end in division)
    if scheme != "iob1" or is_adjacent:
      prefixes[0] = "B"
    if scheme == "iobes":
      prefixes[-1] = "S" if end - start == 1 else "E"
    tags[start:end] = [f"{prefix}-{span_type}" for prefix in prefixes]
  return tags


def all_cases(longest, types=TYPES):
  for length in range(longest + 1):
    for division in span_divisions(length, types):
      yield division, {scheme: tags_of_spans(division, length, scheme) for scheme in SCHEMES}


def scheme_tags(scheme, types):
  prefixes = "BIES" if scheme == "iobes" else "BI"
  return ["O", *(f"{prefix}-{span_type}" for span_type in types for prefix in prefixes)]


def is_accepted(tags, scheme):
  try:
    bio_tags.to_bio(tags, scheme)
  except ValueError:
    return False
  return True


def test_schemes_on_small_example():
  """Two adjacent names in each scheme."""
  bio = "B-PER B-PER I-PER O B-LOC".split()
  iob1 = "I-PER B-PER I-PER O I-LOC".split()
  iobes = "S-PER B-PER E-PER O S-LOC".split()
  bilou = "U-PER B-PER L-PER O U-LOC".split()
  assert bio_tags.to_iobes(bio) == iobes
  assert [bio_tags.to_bio(tags, scheme) for tags, scheme in zip((bio, iob1, iobes), SCHEMES)] == [
    bio
  ] * 3
  assert bio_tags.to_bio(bilou, "iobes") == bio
  spans = {("PER", 0, 1), ("PER", 1, 3), ("LOC", 4, 5)}
  assert [bio_tags.extract_spans(tags) for tags in (bio, iobes, bilou)] == [spans] * 3


def test_scheme_conversions_round_trip():
  """`extract_spans` returns exactly the spans."""
  for division, tags in all_cases(5):
    assert [bio_tags.to_bio(tags[scheme], scheme) for scheme in SCHEMES] == [tags["bio"]] * 3
    assert bio_tags.to_iobes(tags["bio"]) == tags["iobes"]
    assert (
      bio_tags.extract_spans(tags["bio"]) == bio_tags.extract_spans(tags["iobes"]) == set(division)
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("types, longest", [(TYPES, 4), (("PER",), 5)])
def test_only_legal_tags_are_accepted(scheme, types, longest):
  """Of all sequences, `to_bio` accepts those that are the tags of some division."""
  legal = {tuple(tags[scheme]) for _, tags in all_cases(longest, types)}
  for length in range(longest + 1):
    for tags in itertools.product(scheme_tags(scheme, types), repeat=length):
      assert is_accepted(list(tags), scheme) == (tags in legal)


@pytest.mark.parametrize("scheme", ["bio", "iobes"])
@pytest.mark.parametrize("types, longest", [(TYPES, 4), (("PER",), 5)])
def test_transitions_allow_exactly_legal_tags(scheme, types, longest):
  """The paths through the transitions are exactly the legal sequences."""
  tags = scheme_tags(scheme, types)
  start, inner, end = bio_tags.allowed_transitions(tags)
  for length in range(1, longest + 1):
    for path in itertools.product(range(len(tags)), repeat=length):
      allowed = start[path[0]] and end[path[-1]] and all(inner[p] for p in itertools.pairwise(path))
      assert allowed == is_accepted([tags[i] for i in path], scheme)


def test_transitions_on_small_example():
  """BIO tags in any order; BILOU is IOBES with other names; I without B is BIO."""
  start, inner, end = bio_tags.allowed_transitions(["I-X", "O", "B-X"])
  np.testing.assert_array_equal(start, [False, True, True])
  np.testing.assert_array_equal(inner, [[1, 1, 1], [0, 1, 1], [1, 1, 1]])
  assert end.all()
  for allowed_iobes, allowed_bilou in zip(
    bio_tags.allowed_transitions(["O", "B-X", "I-X", "E-X", "S-X"]),
    bio_tags.allowed_transitions(["O", "B-X", "I-X", "L-X", "U-X"]),
    strict=True,
  ):
    np.testing.assert_array_equal(allowed_iobes, allowed_bilou)
  assert bio_tags.allowed_transitions(["O", "I-X"])[0].tolist() == [True, False]


def test_pos_tags_have_no_transition_constraints():
  """Even if some look like tags of spans."""
  for tags in (["NOUN", "VERB", "X"], ["O", "-LRB-", "NP-TL", "B-X", "I-X"]):
    assert all(allowed.all() for allowed in bio_tags.allowed_transitions(tags))


@pytest.mark.parametrize(
  "sentences, scheme",
  [
    (["O B-X I-X", "B-Y"], "bio"),
    (["O O", ""], "bio"),
    (["O I-X I-X", "O I-X B-X"], "iob1"),
    (["I-X I-Y O"], "iob1"),
    (["B-X I-X O", "I-X"], "bio"),  # invalid in both; B begins a span elsewhere, so it is BIO
    (["I-X I-X", "S-X"], "iobes"),
    (["O B-X L-X"], "iobes"),
  ],
)
def test_scheme_detection(sentences, scheme):
  assert bio_tags.detect_scheme(tags.split() for tags in sentences) == scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_detection_on_all_cases(scheme):
  assert bio_tags.detect_scheme(tags[scheme] for _, tags in all_cases(4)) == scheme


def test_spans_of_illegal_tags_follow_conlleval():
  """I begins a span if no span of its type is open."""
  assert bio_tags.extract_spans("I-X I-X O I-Y I-X B-X".split()) == {
    ("X", 0, 2),
    ("Y", 3, 4),
    ("X", 4, 5),
    ("X", 5, 6),
  }
  assert bio_tags.extract_spans("B-X E-X I-X S-X E-X".split()) == {
    ("X", 0, 2),
    ("X", 2, 3),
    ("X", 3, 4),
    ("X", 4, 5),
  }


@pytest.mark.parametrize(
  "tags, scheme, message",
  [
    ("B-X O I-X", "bio", r"^'I-X' at position 2 cannot follow 'O' in BIO$"),
    ("I-X", "bio", r"^'I-X' at position 0 cannot follow the beginning in BIO$"),
    ("B-X I-Y", "bio", r"^'I-Y' at position 1 cannot follow 'B-X'"),
    ("I-X I-Y B-X", "iob1", r"^'B-X' at position 2 cannot follow 'I-Y' in IOB1$"),
    ("O B-X", "iobes", r"^the end at position 2 cannot follow 'B-X' in IOBES$"),
    ("S-X E-X", "iobes", r"^'E-X' at position 1 cannot follow 'S-X'"),
    (
      "O E-X",
      "bio",
      r"^'E-X' at position 1 is not a tag of BIO, which has O and B, I, each with a",
    ),
    ("O NN", "iobes", r"^'NN' at position 1 is not a tag of IOBES"),
    ("B- O", "bio", r"^'B-' at position 0 is not a tag"),
    ("O-X", "bio", r"^'O-X' at position 0 is not a tag"),
  ],
)
def test_illegal_tags_raise(tags, scheme, message):
  with pytest.raises(ValueError, match=message):
    bio_tags.to_bio(tags.split(), scheme)


def test_iobes_of_illegal_bio_raises():
  with pytest.raises(ValueError, match=r"^'I-X' at position 1 cannot follow 'O' in BIO$"):
    bio_tags.to_iobes(["O", "I-X"])

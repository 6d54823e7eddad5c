"""Tagging schemes: spans of words as BIO, IOB1 or IOBES tags.

O is outside of every span, and X stands for any type:

  bio     B-X begins a span and I-X continues it (IOB2)
  iob1    I-X does both; B-X begins only a span that directly follows one of the same type
  iobes   as bio, but E-X ends a span, and S-X is a span of one word (BIOES; BILOU has L-X, U-X)
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

PREFIXES = {"bio": "BI", "iob1": "BI", "iobes": "BIESLU"}
BEGIN_PREFIXES, END_PREFIXES = frozenset("BSU"), frozenset("ESLU")
SplitTag = tuple[str, str]  # prefix and type of a tag; the type of O is ""


def detect_scheme(sentences: Iterable[list[str]]) -> str:
  """Return the scheme of a corpus: "bio", "iob1" or "iobes".

  A single sentence is rarely enough. It is iobes if E, S, L or U occurs, and iob1 if spans begin
  with I after O or after another type, but never with B.
  """
  prefixes, first_prefixes = set(), set()
  for tags in sentences:
    for (_, previous_type), (prefix, span_type) in pairwise(map(_split_tag, ["O", *tags])):
      prefixes.add(prefix)
      if span_type != previous_type:
        first_prefixes.add(prefix)
  if prefixes & END_PREFIXES:
    return "iobes"
  return "iob1" if "I" in first_prefixes and "B" not in first_prefixes else "bio"


def to_bio(tags: list[str], scheme: str = "bio") -> list[str]:
  """Convert the tags of a sentence from any scheme to BIO.

  Raises:
    ValueError: a tag does not belong to the scheme, or cannot follow the tag before it.
  """
  _check_tags(tags, scheme)
  bio = []
  for previous, current in pairwise(map(_split_tag, ["O", *tags])):
    prefix = "B" if _is_boundary(previous, current) else "I"
    bio.append(f"{prefix}-{current[1]}" if current[1] else "O")
  return bio


def to_iobes(tags: list[str]) -> list[str]:
  """Convert the tags of a sentence from BIO to IOBES.

  Raises:
    ValueError: a tag is not BIO, or cannot follow the tag before it.
  """
  _check_tags(tags, "bio")
  last_prefix = {"O": "O", "B": "S", "I": "E"}
  return [
    tag if following[0] == "I" else last_prefix[tag[0]] + tag[1:]
    for tag, following in pairwise([*tags, "O"])
  ]


def extract_spans(tags: list[str]) -> set[tuple[str, int, int]]:
  """Return the spans of BIO or IOBES tags as (type, start, end); the end is exclusive.

  Predicted tags may be illegal. As in conlleval, I-X after O begins a span.
  """
  spans, start = set(), 0
  for t, (previous, current) in enumerate(pairwise(map(_split_tag, ["O", *tags, "O"]))):
    if _is_boundary(previous, current):
      if previous[1]:
        spans.add((previous[1], start, t))
      start = t
  return spans


def allowed_transitions(tags: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return which tags may begin a sentence, follow one another, and end a sentence.

  Args:
    tags: the names of all K tags. They are IOBES if E, S, L or U occurs, else BIO. If some are not
      tags of spans (parts of speech), everything is allowed.

  Returns:
    start [K], inner [K, K] and end [K], bool; inner[i, j]: tag j may follow tag i.
  """
  unconstrained = not all(_is_valid_tag(tag, "iobes") for tag in tags)
  scheme = "bio" if all(_is_valid_tag(tag, "bio") for tag in tags) else "iobes"

  def follows(previous, tag):
    return unconstrained or _can_follow(_split_tag(previous), _split_tag(tag), scheme)

  start = [follows("O", tag) for tag in tags]
  inner = [[follows(previous, tag) for tag in tags] for previous in tags]
  end = [follows(previous, "O") for previous in tags]
  return np.array(start, bool), np.array(inner, bool), np.array(end, bool)


def span_tables(tags: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
  """Return how tags form spans, for `metrics.span_f1`; None if they are not tags of spans.

  Args:
    tags: the names of all K tags, in BIO or IOBES.

  Returns:
    begins [K], ends [K] and joins [K, K], bool: a tag begins a span, ends a span (IOBES), and
    joins[i, j]: tag j continues the span of tag i.
  """
  if not all(_is_valid_tag(tag, "iobes") for tag in tags):
    return None
  split_tags = [_split_tag(tag) for tag in tags]
  begins = [prefix in BEGIN_PREFIXES for prefix, _ in split_tags]
  ends = [prefix in END_PREFIXES for prefix, _ in split_tags]
  joins = [
    [a[0] in {"B", "I"} and b[0] in {"I", "E", "L"} and a[1] == b[1] for b in split_tags]
    for a in split_tags
  ]
  return np.array(begins, bool), np.array(ends, bool), np.array(joins, bool)


def _split_tag(tag: str) -> SplitTag:
  prefix, _, span_type = tag.partition("-")
  return prefix, span_type


def _is_boundary(previous: SplitTag, current: SplitTag) -> bool:
  """Return whether two neighboring words are in different spans, or only one is in a span."""
  return previous[1] != current[1] or previous[0] in END_PREFIXES or current[0] in BEGIN_PREFIXES


def _can_follow(previous: SplitTag, current: SplitTag, scheme: str) -> bool:
  """Return whether a tag may follow another; before and after a sentence is O."""
  same_type = previous[1] == current[1]
  if scheme == "iobes":
    is_open, continues = previous[0] in "BI", current[0] in "IEL"
    return same_type if is_open and continues else is_open == continues
  return same_type or current[0] != {"bio": "I", "iob1": "B"}[scheme]


def _is_valid_tag(tag: str, scheme: str) -> bool:
  prefix, span_type = _split_tag(tag)
  return tag == "O" or (prefix in {*PREFIXES[scheme]} and span_type != "")


def _check_tags(tags: list[str], scheme: str):
  for t, tag in enumerate(tags):
    if not _is_valid_tag(tag, scheme):
      raise ValueError(
        f"{tag!r} at position {t} is not a tag of {scheme.upper()}, which has O and "
        f"{', '.join(PREFIXES[scheme])}, each with a type, as in B-PER"
      )
  names = ["the beginning", *map(repr, tags), "the end"]
  for t, (previous, current) in enumerate(pairwise(map(_split_tag, ["O", *tags, "O"]))):
    if not _can_follow(previous, current, scheme):
      raise ValueError(
        f"{names[t + 1]} at position {t} cannot follow {names[t]} in {scheme.upper()}"
      )

"""Spans as tags of words, in three schemes.

O is outside of every span, and X is any type:

  bio     B-X begins a span and I-X goes on in it (IOB2)
  iob1    I-X does both; B-X begins only what follows a span of the same type at once
  iobes   as bio, but E-X ends a span, and S-X is one of a single word (BIOES; BILOU: L-X, U-X)
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

PREFIXES = {"bio": "BI", "iob1": "BI", "iobes": "BIESLU"}
SplitTag = tuple[str, str]  # prefix and type of a tag; without a type it is outside


def detect_scheme(sentences: Iterable[list[str]]) -> str:
  """The scheme that tags are written in: "bio", "iob1" or "iobes".

  One sentence seldom tells, a corpus does: E, S, L or U is iobes; where I begins spans after O or
  after another type, and B never does, it is iob1.
  """
  seen, first = set(), set()
  for tags in sentences:
    for (_, before), (prefix, kind) in pairwise(map(_split_tag, ["O", *tags])):
      seen.add(prefix)
      if kind != before:
        first.add(prefix)
  if seen & set("ESLU"):
    return "iobes"
  return "iob1" if "I" in first and "B" not in first else "bio"


def to_bio(tags: list[str], scheme: str = "bio") -> list[str]:
  """Tags of any scheme in BIO.

  Raises:
    ValueError: a tag is not of the scheme, or may not stand where it does.
  """
  _check_tags(tags, scheme)
  cut = pairwise(map(_split_tag, ["O", *tags]))
  return [f"{'B' if _is_boundary(a, b) else 'I'}-{b[1]}" if b[1] else "O" for a, b in cut]


def to_iobes(tags: list[str]) -> list[str]:
  """BIO tags in IOBES.

  Raises:
    ValueError: a tag is not BIO, or may not stand where it does.
  """
  _check_tags(tags, "bio")
  last = {"O": "O", "B": "S", "I": "E"}
  return [
    tag if after[0] == "I" else last[tag[0]] + tag[1:] for tag, after in pairwise([*tags, "O"])
  ]


def extract_spans(tags: list[str]) -> set[tuple[str, int, int]]:
  """The spans of BIO or IOBES tags as (type, start, end); the end is exclusive.

  Tags need not be legal, for a net may predict anything: as in conlleval, I-X after O begins one.
  """
  found, start = set(), 0
  for t, (before, now) in enumerate(pairwise(map(_split_tag, ["O", *tags, "O"]))):
    if _is_boundary(before, now):
      if before[1]:
        found.add((before[1], start, t))
      start = t
  return found


def allowed_transitions(tags: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Which tags may begin a sentence, follow one another, and end it.

  Args:
    tags: the names of all K tags. They are IOBES where E, S, L or U occurs, else BIO; where not all
      are tags of spans, as with parts of speech, everything is allowed.

  Returns:
    start [K], inner [K, K], end [K] of bool; inner[i, j]: j may follow i.
  """
  free = not all(_is_valid_tag(tag, "iobes") for tag in tags)
  scheme = "bio" if all(_is_valid_tag(tag, "bio") for tag in tags) else "iobes"
  follows = lambda before, tag: free or _can_follow(_split_tag(before), _split_tag(tag), scheme)
  start = [follows("O", tag) for tag in tags]
  inner = [[follows(before, tag) for tag in tags] for before in tags]
  end = [follows(before, "O") for before in tags]
  return np.array(start, bool), np.array(inner, bool), np.array(end, bool)


def span_tables(tags: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
  """Of which tags spans are made, in IOBES: begins [K], ends [K], joins [K, K] (j goes on i).

  None where some are no tags of spans, as with parts of speech.
  """
  if not all(_is_valid_tag(tag, "iobes") for tag in tags):
    return None
  cut = [_split_tag(tag) for tag in tags]
  begins, ends = ([prefix in {*of} for prefix, _ in cut] for of in ("BSU", "ESLU"))
  joins = [[a[0] in {*"BI"} and b[0] in {*"IEL"} and a[1] == b[1] for b in cut] for a in cut]
  return np.array(begins, bool), np.array(ends, bool), np.array(joins, bool)


def _split_tag(tag: str) -> SplitTag:
  prefix, _, kind = tag.partition("-")
  return prefix, kind


def _is_boundary(previous: SplitTag, current: SplitTag) -> bool:
  """Whether neighbours stand in different spans, or one in none."""
  return previous[1] != current[1] or previous[0] in {*"ESLU"} or current[0] in {*"BSU"}


def _can_follow(previous: SplitTag, current: SplitTag, scheme: str) -> bool:
  """Whether a tag may follow another; what is outside of a sentence is O."""
  same = previous[1] == current[1]
  if scheme == "iobes":
    inside, on = previous[0] in "BI", current[0] in "IEL"
    return same if inside and on else inside == on
  return same or current[0] != {"bio": "I", "iob1": "B"}[scheme]


def _is_valid_tag(tag: str, scheme: str) -> bool:
  prefix, kind = _split_tag(tag)
  return tag == "O" or (prefix in {*PREFIXES[scheme]} and kind != "")


def _check_tags(tags: list[str], scheme: str):
  for t, tag in enumerate(tags):
    if not _is_valid_tag(tag, scheme):
      raise ValueError(
        f"{tag!r} at position {t} is no tag of {scheme.upper()}, which has O and "
        f"{', '.join(PREFIXES[scheme])}, each with a type, as in B-PER"
      )
  names = ["the beginning", *map(repr, tags), "the end"]
  for t, (before, now) in enumerate(pairwise(map(_split_tag, ["O", *tags, "O"]))):
    if not _can_follow(before, now, scheme):
      raise ValueError(
        f"{names[t + 1]} at position {t} cannot follow {names[t]} in {scheme.upper()}"
      )

"""Tagging schemes that represent spans of words as BIO, IOB1 or IOBES tags.

X is the type of a span. Words outside of all spans have the tag O.

  bio     B-X begins a span, I-X continues a span. Also called IOB2.
  iob1    I-X begins or continues a span. B-X begins a span that directly follows a span of the same
          type.
  iobes   B-X begins, I-X continues and E-X ends a span of several words. S-X is a span of one word.
          Also called BIOES; BILOU writes L-X for E-X and U-X for S-X.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

PREFIXES = {"bio": "BI", "iob1": "BI", "iobes": "BIESLU"}
BEGIN_PREFIXES, END_PREFIXES = frozenset("BSU"), frozenset("ESLU")
SplitTag = tuple[str, str]  # (prefix, type) of a tag; the type of O is ""


def detect_scheme(sentences: Iterable[list[str]]) -> str:
  """Return the tagging scheme of a corpus: "bio", "iob1" or "iobes".

  The scheme is "iobes" if a prefix E, S, L or U occurs. The scheme is "iob1" if spans after
  O or after another type begin with I and never with B. Otherwise the scheme is "bio". A single
  sentence rarely has enough tags to detect the scheme.
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
  """Convert the tags of a sentence from `scheme` to BIO.

  Raises:
    ValueError: a tag is invalid in the scheme, or cannot follow the previous tag.
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
    ValueError: a tag is invalid in BIO, or cannot follow the previous tag.
  """
  _check_tags(tags, "bio")
  last_prefix = {"O": "O", "B": "S", "I": "E"}
  return [
    tag if following[0] == "I" else last_prefix[tag[0]] + tag[1:]
    for tag, following in pairwise([*tags, "O"])
  ]


def extract_spans(tags: list[str]) -> set[tuple[str, int, int]]:
  """Return the spans of BIO or IOBES tags as (type, start, end); `end` is exclusive.

  Predicted tags may be an invalid sequence. As in conlleval, I-X after O begins a span.
  """
  spans, start = set(), 0
  for t, (previous, current) in enumerate(pairwise(map(_split_tag, ["O", *tags, "O"]))):
    if _is_boundary(previous, current):
      if previous[1]:
        spans.add((previous[1], start, t))
      start = t
  return spans


def allowed_transitions(tags: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the masks of allowed first tags, tag transitions, and last tags of a sentence.

  Args:
    tags: the names of all K tags. The scheme is IOBES if a prefix E, S, L or U occurs, else BIO. If
      any tag is invalid in both schemes, as for parts of speech, all transitions are allowed.

  Returns:
    (start, inner, end), bool.
      start [K]: whether tag k may begin a sentence.
      inner [K, K]: whether tag j may follow tag i, inner[i, j].
      end [K]: whether tag k may end a sentence.
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
  """Return the tables that `metrics.span_f1` needs; None if the tags do not form spans.

  Args:
    tags: the names of all K tags, in BIO or IOBES.

  Returns:
    (begins, ends, joins), bool.
      begins [K]: whether tag k always begins a span.
      ends [K]: whether tag k always ends a span; only IOBES has such tags.
      joins [K, K]: whether tag j after tag i continues the span, joins[i, j].
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
  """Return whether a span begins or ends between two neighboring tags."""
  return previous[1] != current[1] or previous[0] in END_PREFIXES or current[0] in BEGIN_PREFIXES


def _can_follow(previous: SplitTag, current: SplitTag, scheme: str) -> bool:
  """Return whether tag `current` may follow tag `previous`."""
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

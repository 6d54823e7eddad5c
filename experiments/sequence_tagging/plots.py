"""Tags of words to look at: where a tagger errs, and a sentence in the colours of its tags."""

from collections import Counter
from collections.abc import Sequence

from experiments.sequence_tagging.bio_tags import extract_spans

ANSI_COLORS = (
  32,
  36,
  33,
  35,
  34,
  31,
)  # of ANSI terminals, which begin each with ESC[ and end with m
NO_SPAN = "O"  # what a span is taken for where none was found


def word_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
  """Each word as a span of its own, so that parts of speech are counted as spans are."""
  return {(tag, t, t + 1) for t, tag in enumerate(tags)}


def error_table(
  true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], get_spans=extract_spans
) -> str:
  """A table: for each type how many there are, precision, recall, F1, and what it was taken for.

  Args:
    true, found: the tags of each sentence.
    pieces: tags to what is counted, {(type, start, end)}: `spans`, or `words`.
  """
  there, given, right, taken = Counter(), Counter(), Counter(), {}
  for ours, theirs in zip(true, predicted):
    one, other = get_spans(ours), get_spans(theirs)
    place = {span: kind for kind, *span in other for span in [tuple(span)]}
    there.update(kind for kind, *_ in one)
    given.update(kind for kind, *_ in other)
    right.update(kind for kind, *_ in one & other)
    for kind, *span in one - other:
      taken.setdefault(kind, Counter())[place.get(tuple(span), NO_SPAN)] += 1
  share = lambda a, b: f"{a / b:9.3f}" if b else f"{'':9}"
  lines = [f"{'':10}{'true':>7}{'precision':>11}{'recall':>9}{'F1':>9}  taken for"]
  for kind in sorted(there | given, key=lambda kind: -there[kind]):
    n, m, k = there[kind], given[kind], right[kind]
    wrong = taken.get(kind, Counter()).most_common(3)
    wrong = ", ".join(f"{other} {times}" for other, times in wrong)
    line = f"{kind:10}{n:7}  {share(k, m)}{share(k, n)}{share(2 * k, n + m)}  {wrong}"
    lines.append(line.rstrip())
  return "\n".join(lines)


def colored_sentence(
  words: Sequence[str], tags: Sequence[str], probabilities, get_spans=extract_spans
) -> str:
  """A sentence whose spans are coloured, and named behind; then each word's tag and probability."""
  found = sorted(get_spans(tags), key=lambda piece: piece[1])
  kinds = sorted({kind for kind, *_ in found})
  colours = {kind: ANSI_COLORS[i % len(ANSI_COLORS)] for i, kind in enumerate(kinds)}
  shown, end = [], 0
  for kind, start, stop in found:
    shown += words[end:start]
    shown.append(f"\033[{colours[kind]}m{' '.join(words[start:stop])}\033[0m[{kind}]")
    end = stop
  wide, long = (max(map(len, some)) for some in (words, tags))
  rows = [f"  {w:{wide}}  {tag:{long}}  {p:.3f}" for w, tag, p in zip(words, tags, probabilities)]
  return "\n".join([" ".join([*shown, *words[end:]]), *rows])

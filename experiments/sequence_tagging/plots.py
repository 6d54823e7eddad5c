"""Text output for taggers: an error table, and sentences with colored spans."""

from collections import Counter
from collections.abc import Callable, Sequence

from experiments.sequence_tagging.bio_tags import extract_spans

ANSI_COLORS = (32, 36, 33, 35, 34, 31)  # color numbers of ANSI escape sequences
NO_SPAN = "O"  # the predicted type of a missed span

Span = tuple[str, int, int]  # type, start, end


def word_spans(tags: Sequence[str]) -> set[Span]:
  """Return one span per word, so that parts of speech are counted like spans."""
  return {(tag, t, t + 1) for t, tag in enumerate(tags)}


def error_table(
  true: Sequence[Sequence[str]],
  predicted: Sequence[Sequence[str]],
  get_spans: Callable[[Sequence[str]], set[Span]] = extract_spans,
) -> str:
  """Return a text table with count, precision, recall, F1 and top confusions of each span type.

  Args:
    true: the true tags of each sentence.
    predicted: the predicted tags of each sentence.
    get_spans: function from tags to the counted spans, `extract_spans` or `word_spans`.
  """
  num_true, num_predicted, num_correct, confusions = Counter(), Counter(), Counter(), {}
  for true_tags, predicted_tags in zip(true, predicted):
    true_spans, predicted_spans = get_spans(true_tags), get_spans(predicted_tags)
    predicted_types = {(start, end): span_type for span_type, start, end in predicted_spans}
    num_true.update(span_type for span_type, *_ in true_spans)
    num_predicted.update(span_type for span_type, *_ in predicted_spans)
    num_correct.update(span_type for span_type, *_ in true_spans & predicted_spans)
    for span_type, start, end in true_spans - predicted_spans:
      predicted_type = predicted_types.get((start, end), NO_SPAN)
      confusions.setdefault(span_type, Counter())[predicted_type] += 1

  lines = [f"{'':10}{'true':>7}{'precision':>11}{'recall':>9}{'F1':>9}  taken for"]
  for span_type in sorted(num_true | num_predicted, key=lambda name: -num_true[name]):
    n, m, k = num_true[span_type], num_predicted[span_type], num_correct[span_type]
    top_confusions = confusions.get(span_type, Counter()).most_common(3)
    taken_for = ", ".join(f"{other} {count}" for other, count in top_confusions)
    scores = _format_ratio(k, m) + _format_ratio(k, n) + _format_ratio(2 * k, n + m)
    lines.append(f"{span_type:10}{n:7}  {scores}  {taken_for}".rstrip())
  return "\n".join(lines)


def _format_ratio(numerator: int, denominator: int) -> str:
  return f"{numerator / denominator:9.3f}" if denominator else f"{'':9}"


def colored_sentence(
  words: Sequence[str],
  tags: Sequence[str],
  probabilities: Sequence[float],
  get_spans: Callable[[Sequence[str]], set[Span]] = extract_spans,
) -> str:
  """Return a sentence with colored, labeled spans, followed by one line per word.

  The line of a word shows the word, its tag and the probability of the tag.

  Args:
    words: the words of the sentence.
    tags: the tag of each word.
    probabilities: the probability of each tag.
    get_spans: function from tags to the colored spans, `extract_spans` or `word_spans`.
  """
  spans = sorted(get_spans(tags), key=lambda span: span[1])
  span_types = sorted({span_type for span_type, *_ in spans})
  colors = {name: ANSI_COLORS[i % len(ANSI_COLORS)] for i, name in enumerate(span_types)}
  parts, position = [], 0
  for span_type, start, end in spans:
    parts += words[position:start]
    text = " ".join(words[start:end])
    parts.append(f"\033[{colors[span_type]}m{text}\033[0m[{span_type}]")
    position = end
  word_width, tag_width = max(map(len, words)), max(map(len, tags))
  rows = [
    f"  {word:{word_width}}  {tag:{tag_width}}  {p:.3f}"
    for word, tag, p in zip(words, tags, probabilities)
  ]
  return "\n".join([" ".join([*parts, *words[position:]]), *rows])

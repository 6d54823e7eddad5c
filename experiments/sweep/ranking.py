"""Many runs in one table: validation ranks them, and only the first shows more than its validation.

So nobody chooses by the test part, not even by looking.
"""

import statistics
from collections.abc import Mapping, Sequence

from rnnjax.types import InvalidInputError

LOWER_IS_BETTER = ("loss", "error", "perplexity")  # of such scores less is better
ALWAYS_SHOWN = (
  "parameters",
  "steps",
  "seconds",
)  # what all rows show beside their validation scores
Row = dict[str, str | float]


def rank_trials(results_by_trial: Mapping[tuple, Sequence[Mapping]], metric: str = ""):
  """The rows of a table, best first; rows of fewer runs come after those of more.

  Args:
    found: {((field, value), ...): the results of its runs}, which differ in their seeds; a result
      is {name: value}, as an experiment prints it.
    score: what ranks, such as "valid/accuracy"; "" takes the first of validation.

  Returns:
    rows: fields, "runs", and of each number the mean, and of several the standard deviation (n − 1)
      as "NAME ±".
    score: what has ranked them.

  Raises:
    BadInput: the score is none of the validation part, or no run has it.
  """
  results = [result for several in results_by_trial.values() for result in several]
  fields = {"seed", *(name for point in results_by_trial for name, _ in point)}
  number = lambda value: isinstance(value, (int, float)) and value == value
  names = dict.fromkeys(name for result in results for name in result if number(result[name]))
  shown = lambda name: name.startswith("valid/") or name in (*fields, "runs", *ALWAYS_SHOWN)
  names = sorted((name for name in names if name not in fields), key=lambda name: not shown(name))
  metric = metric or next((name for name in names if name.startswith("valid/")), "valid/...")
  if not metric.startswith("valid/") or metric not in names:
    raise InvalidInputError(
      f"a score of validation must rank the runs; got {metric} of {', '.join(names)}"
    )
  sign, rows = 1 if any(word in metric for word in LOWER_IS_BETTER) else -1, []
  for point, several in results_by_trial.items():
    row: Row = dict(point) | {"runs": len(several)}
    for name in names:
      values = [result[name] for result in several if number(result.get(name))]
      if values:
        row[name] = statistics.fmean(values)
      if len(values) > 1 and name not in ALWAYS_SHOWN:
        row[f"{name} ±"] = statistics.stdev(values)
    rows.append(row)
  rows = [row for row in rows if metric in row]
  rows.sort(key=lambda row: (-row["runs"], sign * row[metric]))
  first, *rest = rows
  return [first, *({n: row[n] for n in row if shown(n)} for row in rest)], metric


def format_table(rows: Sequence[Row]) -> str:
  """Rows as text, a column for each name.

  >>> print(aligned([{"cell": "gru", "valid/loss": 0.5, "valid/loss ±": 0.01}, {"cell": "lstm"}]))
  cell  valid/loss
  gru   0.5000 ± 0.0100
  lstm
  """
  names = dict.fromkeys(name for row in rows for name in row if not name.endswith(" ±"))

  def cell(row, name):
    value, spread = row.get(name, ""), row.get(f"{name} ±")
    if isinstance(value, str):
      return value
    text = f"{value:,.0f}" if name in ("runs", *ALWAYS_SHOWN) else f"{value:.4f}"
    return text if spread is None else f"{text} ± {spread:.4f}"

  lines = [names, *([cell(row, name) for name in names] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines)]
  join = lambda line: "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
  return "\n".join(map(join, lines))

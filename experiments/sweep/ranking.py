"""Ranking of sweep results by validation score. Only the best trial shows its test scores.

The test scores of other trials are hidden, to prevent model selection by test score.
"""

import statistics
from collections.abc import Mapping, Sequence

from rnnjax.types import InvalidInputError

LOWER_IS_BETTER = ("loss", "error", "perplexity")
ALWAYS_SHOWN = ("parameters", "steps", "seconds")  # shown in all rows; not test scores
Row = dict[str, str | float]


def rank_trials(results_by_trial: Mapping[tuple, Sequence[Mapping]], metric: str = ""):
  """Rank trials by the mean of a validation score over their runs.

  Args:
    results_by_trial: {trial: results}. A trial is ((flag, value), ...). Its results are a list of
      {name: value}, one dict for each run of the trial, as printed by the experiment. The runs of a
      trial have different seeds.
    metric: the validation score to rank by, such as "valid/accuracy"; "" for the first validation
      score.

  Returns:
    rows: the table rows, sorted by number of runs (most first), then by score (best first). A row
      contains the flags, "runs", and the mean of each numeric result over the runs. With several
      runs, "NAME ±" is the standard deviation of NAME (n − 1). Trials without the metric are
      omitted.
    metric: the name of the score that the trials are ranked by.

  Raises:
    InvalidInputError: the metric is not a validation score, or no run has this score.
  """
  results = [result for runs in results_by_trial.values() for result in runs]
  flags = {"seed", *(name for trial in results_by_trial for name, _ in trial)}

  def is_shown(name):
    return name.startswith("valid/") or name in (*flags, "runs", *ALWAYS_SHOWN)

  names = dict.fromkeys(
    name for result in results for name, value in result.items() if _is_number(value)
  )
  names = sorted((name for name in names if name not in flags), key=lambda n: not is_shown(n))
  metric = metric or next((name for name in names if name.startswith("valid/")), "valid/...")
  if not metric.startswith("valid/") or metric not in names:
    raise InvalidInputError(
      f"the metric must be a validation score of the runs; got {metric!r}, and the runs have "
      f"{', '.join(names)}"
    )
  rows = [_summarize(trial, runs, names) for trial, runs in results_by_trial.items()]
  rows = [row for row in rows if metric in row]
  sign = 1 if any(word in metric for word in LOWER_IS_BETTER) else -1
  rows.sort(key=lambda row: (-row["runs"], sign * row[metric]))
  best, *others = rows
  return [best, *({n: row[n] for n in row if is_shown(n)} for row in others)], metric


def _is_number(value) -> bool:
  """Return whether a value is a number other than NaN."""
  return isinstance(value, (int, float)) and value == value


def _summarize(trial: tuple, runs: Sequence[Mapping], names: Sequence[str]) -> Row:
  """Return the table row of a trial: means and standard deviations of `names` over its runs."""
  row: Row = dict(trial) | {"runs": len(runs)}
  for name in names:
    values = [result[name] for result in runs if _is_number(result.get(name))]
    if values:
      row[name] = statistics.fmean(values)
    if len(values) > 1 and name not in ALWAYS_SHOWN:
      row[f"{name} ±"] = statistics.stdev(values)
  return row


def format_table(rows: Sequence[Row]) -> str:
  """Format rows as a text table with one aligned column per name.

  >>> rows = [{"cell": "gru", "valid/loss": 0.5, "valid/loss ±": 0.01}, {"cell": "lstm"}]
  >>> print(format_table(rows))
  cell  valid/loss
  gru   0.5000 ± 0.0100
  lstm
  """
  names = dict.fromkeys(name for row in rows for name in row if not name.endswith(" ±"))
  lines = [names, *([_format_cell(row, name) for name in names] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines)]
  padded = [[text.ljust(width) for text, width in zip(line, widths)] for line in lines]
  return "\n".join("  ".join(line).rstrip() for line in padded)


def _format_cell(row: Row, name: str) -> str:
  value, deviation = row.get(name, ""), row.get(f"{name} ±")
  if isinstance(value, str):
    return value
  text = f"{value:,.0f}" if name in ("runs", *ALWAYS_SHOWN) else f"{value:.4f}"
  return text if deviation is None else f"{text} ± {deviation:.4f}"

"""History of a run: the recorded metrics and their curves."""

import pathlib

from rnnjax.analysis.figures import DPI
from rnnjax.data.tables import read_jsonl
from rnnjax.types import InvalidInputError


def read_history(workdir: str) -> dict[str, tuple[list[int], list[float]]]:
  """Read the metrics that a run has recorded in its --workdir.

  Returns:
    {"valid/loss": (steps, values), ...}.

  Raises:
    InvalidInputError: metrics.jsonl is missing, or one of its rows has no "step" or contains a
      value that is not a number.
  """
  path = pathlib.Path(workdir).expanduser() / "metrics.jsonl"
  if not path.is_file():
    raise InvalidInputError(f"{workdir!r} must be the --workdir of a run; it has no {path.name}")
  history: dict[str, tuple[list, list]] = {}
  for location, row in read_jsonl(path):
    if not all(isinstance(value, int | float) for value in row.values()) or "step" not in row:
      raise InvalidInputError(
        f'{location} must contain numbers only, one of them "step"; got {str(row)[:60]}'
      )
    for name, value in row.items():
      if name != "step":
        steps, values = history.setdefault(name, ([], []))
        steps.append(row["step"])
        values.append(value)
  return history


def plot_history(path, history: dict[str, tuple[list[int], list[float]]]):
  """Plot one panel for each metric, such as the loss, with one line for each split.

  The gradient norms of all parameters are in one panel.

  Args:
    path: the PNG file to write.
    history: {"split/metric": (steps, values)}, as returned by `read_history`.
  """
  from matplotlib.figure import Figure

  panels: dict[str, dict] = {}
  for name, line in history.items():
    split, _, metric = name.partition("/")
    metric, _, parameter = metric.partition("/")
    panels.setdefault(metric, {})[parameter or split] = line
  figure = Figure((4 * len(panels), 3), dpi=DPI, layout="constrained")
  for axes, (metric, lines) in zip(
    figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
  ):
    for name, (steps, values) in lines.items():
      axes.plot(steps, values, marker="o", markersize=3, label=name)
    axes.set(title=metric, xlabel="step", yscale="log" if metric == "gradient" else "linear")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
  figure.savefig(path, format="png")

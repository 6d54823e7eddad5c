"""How a run went: its records as curves."""

import pathlib

from rnnjax.analysis.figures import DPI
from rnnjax.data.tables import read_jsonl
from rnnjax.types import InvalidInputError


def read_history(workdir: str) -> dict[str, tuple[list[int], list[float]]]:
  """What a run with --workdir has recorded: {"valid/loss": (steps, values), ...}.

  Raises:
    BadInput: there are no records.
  """
  path = pathlib.Path(workdir).expanduser() / "metrics.jsonl"
  if not path.is_file():
    raise InvalidInputError(f"{workdir!r} must be the --workdir of a run; it has no {path.name}")
  found: dict[str, tuple[list, list]] = {}
  for place, row in read_jsonl(path):
    if not all(isinstance(value, int | float) for value in row.values()) or "step" not in row:
      raise InvalidInputError(f"{place} must be numbers, one of them the step; got {str(row)[:60]}")
    for name, value in row.items():
      if name != "step":
        steps, values = found.setdefault(name, ([], []))
        steps.append(row["step"])
        values.append(value)
  return found


def plot_history(path, history: dict[str, tuple[list[int], list[float]]]):
  """Draw a panel for each metric, such as loss, with a line for each part; gradients on one, all
  together. A PNG.

  Args:
    path: where to.
    history: {"part/metric": (steps, values)}, as `history` reads it.
  """
  from matplotlib.figure import Figure

  panels: dict[str, dict] = {}
  for name, line in history.items():
    part, _, metric = name.partition("/")
    kind, _, parameter = metric.partition("/")
    panels.setdefault(kind, {})[parameter or part] = line
  figure = Figure((4 * len(panels), 3), dpi=DPI, layout="constrained")
  for axes, (kind, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
    for name, (steps, values) in lines.items():
      axes.plot(steps, values, marker="o", markersize=3, label=name)
    axes.set(title=kind, xlabel="step", yscale="log" if kind == "gradient" else "linear")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
  figure.savefig(path, format="png")

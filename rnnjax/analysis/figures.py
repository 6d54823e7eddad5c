"""Pictures: a text coloured by what a unit does (Karpathy, Johnson & Li 2015), and curves."""

import unicodedata
from collections.abc import Sequence

import numpy as np

FONT, DIVERGING_COLORS = "DejaVu Sans Mono", ("#64a2ec", "#ffffff", "#f47362")  # -1, 0, 1
TEXT_COLOR, BACKGROUND_COLOR = "#1f2328", "#f6f7f9"
DPI, PAGE_WIDTH, MARGIN, TITLE_HEIGHT = (
  150,
  1000,
  20,
  48,
)  # pixels: a page, around it, above each panel
MIN_LINE_CHARS, MAX_LINE_CHARS = 56, 90  # characters in a line, at least and at most


def wrap_positions(text: str, limit: int) -> np.ndarray:
  """The row and column of each character, [len(text), 2]: newlines and the limit break lines."""
  places, row, column = [], 0, 0
  for character in text:
    if column == limit:
      row, column = row + 1, 0
    places.append((row, column))
    row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
  return np.array(places).reshape(-1, 2)


def _printable(text: str, glyphs) -> str:
  """A character for each: a box for what would take no cell, two, or one elsewhere."""
  one = lambda c: c.isprintable() and not unicodedata.combining(c) and ord(c) in glyphs
  written = lambda c: one(c) and unicodedata.bidirectional(c) not in ("R", "AL")
  return "".join(" " if c in "\n\t" else c if written(c) else "□" for c in text)


def _check_panels(panels):
  if not panels or not all(text for _, text, _ in panels):
    raise ValueError("rows must be one or more (title, text, values) with a text that is not empty")
  for title, text, values in panels:
    if np.shape(values) != (len(text),):
      raise ValueError(
        f"{title!r}: values must be ({len(text)},), one for each character; got {np.shape(values)}"
      )
    if not (np.abs(values) <= 1).all():
      raise ValueError(f"{title!r}: values must lie in [-1, 1]; got up to {np.abs(values).max()}")


def plot_colored_text(path, panels: Sequence[tuple[str, str, np.ndarray]]):
  """Draw each text on the colours of its values: blue is -1, white 0, red 1. A PNG.

  Args:
    path: where to.
    rows: (title, text, values [T]), a panel each; the values lie in [-1, 1].
  """
  from matplotlib import font_manager
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  _check_panels(panels)
  colours = LinearSegmentedColormap.from_list("signed", DIVERGING_COLORS)
  font = font_manager.get_font(font_manager.findfont(FONT))
  places = [wrap_positions(text, MAX_LINE_CHARS) for _, text, _ in panels]
  columns = max(MIN_LINE_CHARS, 1 + max(place[:, 1].max() for place in places))
  heights = [1 + place[:, 0].max() for place in places]
  # All in whole pixels: then cells are sharp, and letters keep step with them along the line.
  cell, line = PAGE_WIDTH // columns, round(1.9 * (PAGE_WIDTH // columns))
  width, height = (
    cell * columns + 2 * MARGIN,
    sum(heights) * line + len(panels) * TITLE_HEIGHT + MARGIN,
  )
  points = cell * 72 / DPI / (1233 / 2048)  # the font's advance over its size

  figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND_COLOR)

  def panel(left, top, w, h, values):
    """Axes in pixels of the page, coloured by values [rows, columns]."""
    place = (left / width, 1 - (top + h) / height, w / width, h / height)
    axes = figure.add_axes(place, xticks=[], yticks=[])
    axes.imshow(values, colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.spines[:].set(color="#d5d9de", linewidth=0.5)
    return axes

  key = panel(width - MARGIN - 150, 22, 120, 12, np.linspace(-1, 1, 120)[None])
  for x, name, side in ((0, "−1 ", "right"), (1, " 1", "left")):
    key.text(
      x, 0.45, name, size=6.5, color=TEXT_COLOR, ha=side, va="center", transform=key.transAxes
    )

  top = 0
  for (title, text, values), place, lines in zip(panels, places, heights):
    grid = np.full((lines, columns), np.nan)
    grid[tuple(place.T)] = values
    axes = panel(MARGIN, top + TITLE_HEIGHT, cell * columns, lines * line, grid)
    written = np.full((lines, columns), " ")
    written[tuple(place.T)] = list(_printable(text, font.get_charmap()))
    style = {"family": FONT, "size": points, "va": "center_baseline", "parse_math": False}
    for y, letters in enumerate(written):
      axes.text(-0.5, y, "".join(letters), color=TEXT_COLOR, **style)
    for y, x in place[[character == "\n" for character in text]]:
      axes.text(x - 0.5, y, "↵", color=TEXT_COLOR, alpha=0.4, **style)
    figure.text(
      MARGIN / width,
      1 - (top + 0.6 * TITLE_HEIGHT) / height,
      title,
      size=8,
      color=TEXT_COLOR,
      va="center",
      weight="bold",
      parse_math=False,
    )
    top += TITLE_HEIGHT + lines * line
  figure.savefig(path, format="png", dpi=DPI, facecolor=BACKGROUND_COLOR)


def plot_curves(
  path,
  lines: dict,
  reference_lines: dict,
  xlabel: str,
  ylabel: str,
  tick_labels: Sequence[str] = (),
):
  """Draw lines over 1, 2, ..., and levels across them. A PNG.

  Args:
    path: where to.
    lines: {name: values}.
    levels: {name: value}, dashed.
    across, upward: what the axes say.
    ticks: what stands for 1, 2, ...
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 3.5), dpi=DPI, layout="constrained")
  axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
  for name, values in lines.items():
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
  for name, value in reference_lines.items():
    axes.axhline(value, color=TEXT_COLOR, linestyle="--", linewidth=1, label=f"{name}: {value:.3f}")
  if tick_labels:
    axes.set_xticks(range(1, len(tick_labels) + 1), tick_labels)
  else:
    axes.xaxis.get_major_locator().set_params(integer=True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
  figure.savefig(path, format="png")


def plot_heatmap(
  path, column_labels: Sequence[str], row_labels: Sequence[str], weights: np.ndarray
):
  """Draw weights in [0, 1] between two texts, the darker the more. A PNG.

  Args:
    path: where to.
    across: S pieces of what was read.
    down: T pieces of what was written.
    weights: [T, S].
  """
  from matplotlib.figure import Figure

  if np.shape(weights) != (len(row_labels), len(column_labels)):
    raise ValueError(
      f"weights must be {(len(row_labels), len(column_labels))}; got {np.shape(weights)}"
    )
  long, wide = (
    0.09 * max(map(len, texts)) for texts in (column_labels, row_labels)
  )  # inches of a label
  size = (0.8 + wide + long / 2 + 0.3 * len(column_labels), 0.6 + long + 0.3 * len(row_labels))
  figure = Figure(figsize=size, dpi=DPI, layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(weights, "Blues", vmin=0, vmax=1, aspect="equal")
  turned = dict(rotation=60, ha="left", rotation_mode="anchor")
  axes.set_xticks(range(len(column_labels)), column_labels, parse_math=False, **turned)
  axes.set_yticks(range(len(row_labels)), row_labels, parse_math=False)
  axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
  axes.spines[:].set_visible(False)
  figure.savefig(path, format="png")

"""Pictures: a text coloured by what a unit does (Karpathy, Johnson & Li 2015), and curves."""

import unicodedata
from collections.abc import Sequence

import numpy as np

FONT, COLOURS = "DejaVu Sans Mono", ("#64a2ec", "#ffffff", "#f47362")  # -1, 0, 1
INK, PAPER = "#1f2328", "#f6f7f9"
DPI, WIDTH, MARGIN, BAR = 150, 1000, 20, 48  # pixels: a page, around it, above each panel
NARROW, WIDE = 56, 90  # characters in a line, at least and at most


def wrapped(text: str, limit: int) -> np.ndarray:
  """The row and column of each character, [len(text), 2]: newlines and the limit break lines."""
  places, row, column = [], 0, 0
  for character in text:
    if column == limit:
      row, column = row + 1, 0
    places.append((row, column))
    row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
  return np.array(places).reshape(-1, 2)


def _shown(text: str, known) -> str:
  """A character for each: a box for what would take no cell, two, or one elsewhere."""
  one = lambda c: c.isprintable() and not unicodedata.combining(c) and ord(c) in known
  written = lambda c: one(c) and unicodedata.bidirectional(c) not in ("R", "AL")
  return "".join(" " if c in "\n\t" else c if written(c) else "□" for c in text)


def _check(rows):
  if not rows or not all(text for _, text, _ in rows):
    raise ValueError("rows must be one or more (title, text, values) with a text that is not empty")
  for title, text, values in rows:
    if np.shape(values) != (len(text),):
      raise ValueError(
        f"{title!r}: values must be ({len(text)},), one for each character; got {np.shape(values)}"
      )
    if not (np.abs(values) <= 1).all():
      raise ValueError(f"{title!r}: values must lie in [-1, 1]; got up to {np.abs(values).max()}")


def coloured_text(path, rows: Sequence[tuple[str, str, np.ndarray]]):
  """Draw each text on the colours of its values: blue is -1, white 0, red 1. A PNG.

  Args:
    path: where to.
    rows: (title, text, values [T]), a panel each; the values lie in [-1, 1].
  """
  from matplotlib import font_manager
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  _check(rows)
  colours = LinearSegmentedColormap.from_list("signed", COLOURS)
  font = font_manager.get_font(font_manager.findfont(FONT))
  places = [wrapped(text, WIDE) for _, text, _ in rows]
  columns = max(NARROW, 1 + max(place[:, 1].max() for place in places))
  heights = [1 + place[:, 0].max() for place in places]
  # All in whole pixels: then cells are sharp, and letters keep step with them along the line.
  cell, line = WIDTH // columns, round(1.9 * (WIDTH // columns))
  width, height = cell * columns + 2 * MARGIN, sum(heights) * line + len(rows) * BAR + MARGIN
  points = cell * 72 / DPI / (1233 / 2048)  # the font's advance over its size

  figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)

  def panel(left, top, wide, high, values):
    """Axes in pixels of the page, coloured by values [rows, columns]."""
    place = (left / width, 1 - (top + high) / height, wide / width, high / height)
    axes = figure.add_axes(place, xticks=[], yticks=[])
    axes.imshow(values, colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.spines[:].set(color="#d5d9de", linewidth=0.5)
    return axes

  key = panel(width - MARGIN - 150, 22, 120, 12, np.linspace(-1, 1, 120)[None])
  for x, name, side in ((0, "−1 ", "right"), (1, " 1", "left")):
    key.text(x, 0.45, name, size=6.5, color=INK, ha=side, va="center", transform=key.transAxes)

  top = 0
  for (title, text, values), place, lines in zip(rows, places, heights):
    grid = np.full((lines, columns), np.nan)
    grid[tuple(place.T)] = values
    axes = panel(MARGIN, top + BAR, cell * columns, lines * line, grid)
    written = np.full((lines, columns), " ")
    written[tuple(place.T)] = list(_shown(text, font.get_charmap()))
    style = {"family": FONT, "size": points, "va": "center_baseline", "parse_math": False}
    for y, letters in enumerate(written):
      axes.text(-0.5, y, "".join(letters), color=INK, **style)
    for y, x in place[[character == "\n" for character in text]]:
      axes.text(x - 0.5, y, "↵", color=INK, alpha=0.4, **style)
    figure.text(
      MARGIN / width,
      1 - (top + 0.6 * BAR) / height,
      title,
      size=8,
      color=INK,
      va="center",
      weight="bold",
      parse_math=False,
    )
    top += BAR + lines * line
  figure.savefig(path, format="png", dpi=DPI, facecolor=PAPER)


def curves(path, lines: dict, levels: dict, across: str, upward: str, ticks: Sequence[str] = ()):
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
  axes = figure.add_subplot(xlabel=across, ylabel=upward)
  for name, values in lines.items():
    axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
  for name, value in levels.items():
    axes.axhline(value, color=INK, linestyle="--", linewidth=1, label=f"{name}: {value:.3f}")
  if ticks:
    axes.set_xticks(range(1, len(ticks) + 1), ticks)
  else:
    axes.xaxis.get_major_locator().set_params(integer=True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
  figure.savefig(path, format="png")


def heat(path, across: Sequence[str], down: Sequence[str], weights: np.ndarray):
  """Draw weights in [0, 1] between two texts, the darker the more. A PNG.

  Args:
    path: where to.
    across: S pieces of what was read.
    down: T pieces of what was written.
    weights: [T, S].
  """
  from matplotlib.figure import Figure

  if np.shape(weights) != (len(down), len(across)):
    raise ValueError(f"weights must be {(len(down), len(across))}; got {np.shape(weights)}")
  long, wide = (0.09 * max(map(len, texts)) for texts in (across, down))  # inches of a label
  size = (0.8 + wide + long / 2 + 0.3 * len(across), 0.6 + long + 0.3 * len(down))
  figure = Figure(figsize=size, dpi=DPI, layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(weights, "Blues", vmin=0, vmax=1, aspect="equal")
  turned = dict(rotation=60, ha="left", rotation_mode="anchor")
  axes.set_xticks(range(len(across)), across, parse_math=False, **turned)
  axes.set_yticks(range(len(down)), down, parse_math=False)
  axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
  axes.spines[:].set_visible(False)
  figure.savefig(path, format="png")

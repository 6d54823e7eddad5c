"""Texts colored by one value per character or per word (Karpathy, Johnson & Li 2015)."""

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import BACKGROUND_COLOR, DIVERGING_COLORS, DPI, TEXT_COLOR

FONT = "DejaVu Sans Mono"
PAGE_WIDTH = 1000  # pixels
MARGIN = 20  # pixels around the page
TITLE_HEIGHT = 48  # pixels above each panel
MIN_LINE_CHARS = 56  # minimum number of columns of the page
MAX_LINE_CHARS = 90  # characters at which a line is wrapped


def wrap_positions(text: str, limit: int) -> np.ndarray:
  """Return the row and column of each character, [len(text), 2].

  Lines are wrapped at `limit` characters. A newline is the last character of its line.
  """
  positions = []
  row = column = 0
  for character in text:
    if column == limit:
      row, column = row + 1, 0
    positions.append((row, column))
    column += 1
    if character == "\n":
      row, column = row + 1, 0
  return np.array(positions).reshape(-1, 2)


def _printable(text: str, glyphs) -> str:
  """Replace characters that cannot be drawn in one monospaced cell by "□".

  Such characters are combining marks, right-to-left letters, and characters without a glyph.
  Newlines and tabs are replaced by blanks.
  """

  def fits(c):
    return (
      c.isprintable()
      and not unicodedata.combining(c)
      and ord(c) in glyphs
      and unicodedata.bidirectional(c) not in ("R", "AL")
    )

  text = re.sub(r"[\n\t]", " ", text)
  return "".join(c if fits(c) else "□" for c in text)


def _check_panels(panels):
  if not panels or not all(text for _, text, _ in panels):
    raise ValueError("panels must be one or more (title, text, values), each with a non-empty text")
  for title, text, values in panels:
    if np.shape(values) != (len(text),):
      raise ValueError(
        f"{title!r}: values must have shape ({len(text)},), one for each character; "
        f"got {np.shape(values)}"
      )
    if not (np.abs(values) <= 1).all():
      raise ValueError(
        f"{title!r}: values must be in [-1, 1]; the largest magnitude is {np.abs(values).max()}"
      )


def plot_colored_text(path, panels: Sequence[tuple[str, str, np.ndarray]]):
  """Plot texts in which the background color of each character shows its value.

  The color is blue for −1, white for 0 and red for 1.

  Args:
    path: the PNG file to write.
    panels: (title, text, values) for each panel; values [T] are in [−1, 1], one for each of the T
      characters of the text.

  Raises:
    ValueError: `panels` is empty, a text is empty, or values have the wrong shape or are outside
      [−1, 1].
  """
  from matplotlib import font_manager
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  _check_panels(panels)
  colormap = LinearSegmentedColormap.from_list("signed", DIVERGING_COLORS)
  font = font_manager.get_font(font_manager.findfont(FONT))
  positions = [wrap_positions(text, MAX_LINE_CHARS) for _, text, _ in panels]
  columns = max(MIN_LINE_CHARS, 1 + max(position[:, 1].max() for position in positions))
  heights = [1 + position[:, 0].max() for position in positions]
  # All sizes are whole pixels, so that cells are sharp and letters stay centered in them.
  cell = PAGE_WIDTH // columns
  line = round(1.9 * cell)
  width = cell * columns + 2 * MARGIN
  height = sum(heights) * line + len(panels) * TITLE_HEIGHT + MARGIN
  points = cell * 72 / DPI / (1233 / 2048)  # 1233 / 2048: advance width / font size

  figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND_COLOR)

  def add_panel(left, top, w, h, values):
    """Draw values [rows, columns] as colors, at a position given in pixels of the page."""
    rect = (left / width, 1 - (top + h) / height, w / width, h / height)
    axes = figure.add_axes(rect, xticks=[], yticks=[])
    axes.imshow(values, colormap, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.spines[:].set(color="#d5d9de", linewidth=0.5)
    return axes

  legend = add_panel(width - MARGIN - 150, 22, 120, 12, np.linspace(-1, 1, 120)[None])
  for x, label, side in ((0, "−1 ", "right"), (1, " 1", "left")):
    legend.text(
      x, 0.45, label, size=6.5, color=TEXT_COLOR, ha=side, va="center", transform=legend.transAxes
    )

  top = 0
  for (title, text, values), position, lines in zip(panels, positions, heights):
    grid = np.full((lines, columns), np.nan)
    grid[tuple(position.T)] = values
    axes = add_panel(MARGIN, top + TITLE_HEIGHT, cell * columns, lines * line, grid)
    characters = np.full((lines, columns), " ")
    characters[tuple(position.T)] = list(_printable(text, font.get_charmap()))
    style = {"family": FONT, "size": points, "va": "center_baseline", "parse_math": False}
    for y, row in enumerate(characters):
      axes.text(-0.5, y, "".join(row), color=TEXT_COLOR, **style)
    for y, x in position[[character == "\n" for character in text]]:
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


def colored_html(words: Sequence[str], weights: Sequence[float]) -> str:
  """Return words as HTML. The opacity of each red background is proportional to the weight.

  The background of the largest weight is opaque. A tooltip shows the weight of each word. In a
  notebook: `IPython.display.HTML(colored_html(words, α))`.

  Args:
    words: the words, as plain text.
    weights: a non-negative weight for each word.

  Raises:
    ValueError: the number of weights differs from the number of words, or a weight is negative.
  """
  weights = np.asarray(weights, float)
  if weights.shape != (len(words),) or not (weights >= 0).all():
    raise ValueError(f"weights must be {len(words)} non-negative numbers; got {weights}")
  opacities = weights / max(weights.max(initial=0), 1e-30)
  style = "background:rgba(244,115,98,{:.2f});padding:1px 2px;border-radius:3px"
  return " ".join(
    f'<span style="{style.format(opacity)}" title="{weight:.3f}">{html.escape(word)}</span>'
    for word, opacity, weight in zip(words, opacities, weights)
  )

"""What happens within: states and gates over the steps, a text in the colours of its weights."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from rnnjax.analysis.figures import DIVERGING_COLORS, DPI


def plot_states(path, tokens: Sequence[str], panels: Mapping[str, np.ndarray], vmin: float = -1.0):
  """Draw units over steps, a panel beneath another: blue is low, red 1. A PNG.

  Args:
    path: where to.
    pieces: what was read at each step, T words or characters.
    panels: {title: [T, H]}, such as hs, or the gates σ(z) with low=0.
    low: the value that is bluest.

  Raises:
    ValueError: a panel that has not a row for each piece.
  """
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  for title, values in panels.items():
    if len(values) != len(tokens):
      raise ValueError(
        f"{title} must have a row for each of {len(tokens)} pieces; got {len(values)}"
      )
  colours = LinearSegmentedColormap.from_list("signed", DIVERGING_COLORS)
  wide, units = max(4.0, 1.2 + 0.32 * len(tokens)), [np.shape(v)[1] for v in panels.values()]
  long = 0.09 * max(map(len, tokens))  # inches of a label
  heights = [min(0.4 + 0.05 * H, 2.0) for H in units]
  size = wide, sum(heights) + 0.3 * len(units) + long
  figure = Figure(size, dpi=DPI, layout="constrained")
  grid = figure.subplots(len(units), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
  for axes, (title, values) in zip(grid, panels.items()):
    how = dict(vmin=vmin, vmax=1, aspect="auto", interpolation="nearest")
    shown = axes.imshow(np.asarray(values, float).T, colours, **how)
    axes.set_ylabel(title, size=8, rotation=0, ha="right", va="center", parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
  grid[-1].set_xticks(
    range(len(tokens)),
    tokens,
    rotation=60,
    ha="right",
    size=8,
    rotation_mode="anchor",
    parse_math=False,
  )
  figure.colorbar(shown, ax=list(grid), aspect=30, fraction=0.03)
  figure.savefig(path, format="png")


def colored_html(words: Sequence[str], weights: Sequence[float]) -> str:
  """HTML of words, the redder the larger their weight beside the largest; a pointer reads it off.

  A notebook shows it: `IPython.display.HTML(coloured(words, α))`.

  Raises:
    ValueError: there are not as many weights, or one is negative.
  """
  weights = np.asarray(weights, float)
  if weights.shape != (len(words),) or not (weights >= 0).all():
    raise ValueError(f"weights must be {len(words)} numbers, none negative; got {weights}")
  shares = weights / max(weights.max(initial=0), 1e-30)
  style = "background:rgba(244,115,98,{:.2f});padding:1px 2px;border-radius:3px"
  return " ".join(
    f'<span style="{style.format(share)}" title="{weight:.3f}">{html.escape(word)}</span>'
    for word, share, weight in zip(words, shares, weights)
  )

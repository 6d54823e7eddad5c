"""Hidden units that track something: a quote, a bracket, the length of a line.

Karpathy, Johnson & Li, Visualizing and Understanding Recurrent Networks, 2015, found such units by
eye. Here the best of many is chosen on one half of a text and judged on the other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

OPENING_BRACKETS, CLOSING_BRACKETS = "([{", ")]}"


class TrackingUnit(NamedTuple):
  """The unit that tracks a signal, and its correlation with it on text it was not chosen on."""

  unit: int
  correlation: float


def _count_since(is_start: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
  """How many positions were counted after the last start (or from the beginning), up to each one.

  nₜ = Σₛ counted[s],   last start < s ≤ t
  """
  total = np.concatenate([[0], np.cumsum(is_counted)])
  last = np.maximum.accumulate(np.where(is_start, np.arange(len(is_start)), -1))
  return total[1:] - total[last + 1]


def text_signals(text: str) -> dict[str, np.ndarray]:
  """What there is to track: for each signal its value after each character, [T].

  A signal that is the same throughout is left out.

  Returns:
    "quotes": 1 from an opening double quote on and 0 from the closing one on; a blank line closes
      it, so that a stray quote does not invert all that follows.
    "brackets": how many of ( [ { are open; one that closes nothing counts nothing.
    "line": characters since the last newline.
    "word": letters and digits since the last character that is neither.
    "indent": spaces and tabs at the start of the line, as far as it is read.
  """
  characters = np.array(list(text), dtype="U1")
  newline, quote = characters == "\n", characters == '"'
  each = lambda test: np.fromiter(map(test, text), bool, len(text))
  alphanumeric = each(str.isalnum)
  visible = _count_since(newline, ~each(str.isspace))
  blank = newline & (np.concatenate([[0], visible])[:-1] == 0)
  leading = np.isin(characters, [" ", "\t"]) & (visible == 0)
  opening, closing = (
    np.isin(characters, list(kind)) for kind in (OPENING_BRACKETS, CLOSING_BRACKETS)
  )
  walk = np.cumsum(opening.astype(int) - closing)
  found = {
    "quotes": _count_since(blank, quote) % 2,
    # Its own minimum lifts the walk wherever it would fall below zero.
    "brackets": walk - np.minimum(np.minimum.accumulate(walk), 0),
    "line": _count_since(newline, ~newline),
    "word": _count_since(~alphanumeric, alphanumeric),
    "indent": _count_since(newline, leading),
  }
  return {name: values for name, values in found.items() if (values != values[:1]).any()}


def _standardize_columns(xs: np.ndarray) -> np.ndarray:
  """Columns of mean 0 and length 1, so that products are correlations; 0 for what stands still."""
  xs = np.asarray(xs, np.float64)
  moves = xs.max(0) > xs.min(0)  # exact, where a variance would be of rounding errors
  xs = np.where(moves, xs - xs.mean(0), 0)
  return xs / np.where(moves, np.linalg.norm(xs, axis=0), 1)


def find_tracking_units(
  hs: np.ndarray, signals: Mapping[str, np.ndarray]
) -> dict[str, TrackingUnit]:
  """For each signal the unit that follows it best, chosen on the first half of the text.

      unit = argmaxⱼ |r(hs[: T/2, j], z[: T/2])|,   correlation = r(hs[T/2 :, unit], z[T/2 :])

  with Pearson's r. Among many units some follow anything by chance on the half on which they are
  chosen, but not on the other. What stands still has correlation 0.

  Args:
    hs: activations, [T, H].
    signals: values z [T] of each, such as `signals` finds in a text.
  """
  hs = np.asarray(hs)
  if hs.ndim != 2 or len(hs) < 4 or not hs.shape[1]:
    raise ValueError(f"hs must be [T, H], at least four steps of one unit; got shape {hs.shape}")
  for name, values in signals.items():
    if np.shape(values) != hs.shape[:1]:
      raise ValueError(f"{name!r} must be {hs.shape[:1]}, as long as hs; got {np.shape(values)}")
  if not np.isfinite(hs).all():
    raise ValueError(f"hs must be finite; got {(~np.isfinite(hs)).sum()} numbers that are not")
  if not signals:
    return {}
  zs, half = np.stack(list(signals.values()), 1), len(hs) // 2
  seen = np.abs(_standardize_columns(hs[:half]).T @ _standardize_columns(zs[:half]))  # [H, S]
  units = seen.argmax(0)
  judged = (
    (_standardize_columns(hs[half:, units]) * _standardize_columns(zs[half:])).sum(0).clip(-1, 1)
  )
  judged = np.where(seen.max(0) > 0, judged, 0)  # nothing was chosen where nothing moved
  return {name: TrackingUnit(int(j), float(r)) for name, j, r in zip(signals, units, judged)}

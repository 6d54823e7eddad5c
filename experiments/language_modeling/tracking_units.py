"""Hidden units whose activation tracks a signal of the text: quotes, brackets, line length.

Karpathy, Johnson & Li (2015), "Visualizing and Understanding Recurrent Networks", found such units
by inspection. Here the best unit is selected on one half of a text and measured on the other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

OPENING_BRACKETS, CLOSING_BRACKETS = "([{", ")]}"


class TrackingUnit(NamedTuple):
  """The unit that tracks a signal.

  Attributes:
    unit: the index of the unit.
    correlation: its correlation with the signal, on text on which it was not selected.
  """

  unit: int
  correlation: float


def _count_since(is_start: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
  """Return how many positions were counted since the last start, or since the beginning.

  nₜ = Σₛ counted[s],   last start < s ≤ t
  """
  total = np.concatenate([[0], np.cumsum(is_counted)])
  last_start = np.maximum.accumulate(np.where(is_start, np.arange(len(is_start)), -1))
  return total[1:] - total[last_start + 1]


def text_signals(text: str) -> dict[str, np.ndarray]:
  """Return signals that a unit may track: for each, its value after each character, [T].

  Constant signals are omitted.

  Returns:
    "quotes": 1 from an opening double quote and 0 from the closing one. A blank line closes the
      quote, so that a single unmatched quote does not invert the rest.
    "brackets": the number of open ( [ and {. An unmatched closing bracket is ignored.
    "line": characters since the last newline.
    "word": letters and digits since the last other character.
    "indent": spaces and tabs at the start of the line, up to the current position.
  """
  characters = np.array(list(text), dtype="U1")
  newline, quote = characters == "\n", characters == '"'
  alphanumeric = np.fromiter(map(str.isalnum, text), bool, len(text))
  whitespace = np.fromiter(map(str.isspace, text), bool, len(text))
  num_visible = _count_since(newline, ~whitespace)  # visible characters of the line so far
  blank_line = newline & (np.concatenate([[0], num_visible])[:-1] == 0)
  leading = np.isin(characters, [" ", "\t"]) & (num_visible == 0)
  opening, closing = (
    np.isin(characters, list(brackets)) for brackets in (OPENING_BRACKETS, CLOSING_BRACKETS)
  )
  depth = np.cumsum(opening.astype(int) - closing)
  signals = {
    "quotes": _count_since(blank_line, quote) % 2,
    # Subtracting the running minimum ignores unmatched closing brackets.
    "brackets": depth - np.minimum(np.minimum.accumulate(depth), 0),
    "line": _count_since(newline, ~newline),
    "word": _count_since(~alphanumeric, alphanumeric),
    "indent": _count_since(newline, leading),
  }
  return {name: values for name, values in signals.items() if (values != values[:1]).any()}


def _standardize_columns(xs: np.ndarray) -> np.ndarray:
  """Return columns of mean 0 and norm 1, whose products are correlations; 0 if constant."""
  xs = np.asarray(xs, np.float64)
  varies = xs.max(0) > xs.min(0)  # exact; the variance of a constant may be a rounding error
  xs = np.where(varies, xs - xs.mean(0), 0)
  return xs / np.where(varies, np.linalg.norm(xs, axis=0), 1)


def find_tracking_units(
  hs: np.ndarray, signals: Mapping[str, np.ndarray]
) -> dict[str, TrackingUnit]:
  """Return for each signal the unit that tracks it best, selected on the first half of the text.

      unit = argmaxⱼ |r(hs[: T/2, j], z[: T/2])|,   correlation = r(hs[T/2 :, unit], z[T/2 :])

  r is Pearson's correlation, 0 for a constant. Of many units, some correlate with any signal by
  chance on the half on which they are selected, but not on the other half.

  Args:
    hs: hidden states [T, H].
    signals: the values z [T] of each signal, as returned by `text_signals`.

  Raises:
    ValueError: `hs` is not [T, H] with T ≥ 4 and H ≥ 1, has non-finite values, or differs in length
      from a signal.
  """
  hs = np.asarray(hs)
  if hs.ndim != 2 or len(hs) < 4 or not hs.shape[1]:
    raise ValueError(f"hs must be [T, H] with T >= 4 and H >= 1; got shape {hs.shape}")
  for name, values in signals.items():
    if np.shape(values) != hs.shape[:1]:
      raise ValueError(
        f"signal {name!r} must have shape {hs.shape[:1]}, the length of hs; got {np.shape(values)}"
      )
  if not np.isfinite(hs).all():
    raise ValueError(f"hs must be finite; got {(~np.isfinite(hs)).sum()} non-finite values")
  if not signals:
    return {}
  zs, half = np.stack(list(signals.values()), 1), len(hs) // 2
  selection = np.abs(_standardize_columns(hs[:half]).T @ _standardize_columns(zs[:half]))  # [H, S]
  units = selection.argmax(0)
  correlations = _standardize_columns(hs[half:, units]) * _standardize_columns(zs[half:])
  correlations = correlations.sum(0).clip(-1, 1)
  # No unit was selected if all units or the signal were constant on the first half.
  correlations = np.where(selection.max(0) > 0, correlations, 0)
  return {
    name: TrackingUnit(int(unit), float(correlation))
    for name, unit, correlation in zip(signals, units, correlations)
  }

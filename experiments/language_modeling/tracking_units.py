"""Hidden units whose activations track a signal of the text, such as quotes or line length.

Karpathy, Johnson & Li (2015), "Visualizing and Understanding Recurrent Networks", found such units
by inspection. Here the unit with the highest correlation is selected on the first half of a text.
The reported correlation is measured on the second half.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

OPENING_BRACKETS, CLOSING_BRACKETS = "([{", ")]}"


class TrackingUnit(NamedTuple):
  """A hidden unit that tracks a signal.

  Attributes:
    unit: the index of the unit.
    correlation: the correlation of the unit with the signal, on the second half of the text.
  """

  unit: int
  correlation: float


def _count_since(is_start: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
  """Count the positions with `is_counted` since the last position with `is_start`.

  nₜ = Σₛ is_counted[s],   last start < s ≤ t    (all s ≤ t before the first start)
  """
  total = np.concatenate([[0], np.cumsum(is_counted)])
  last_start = np.maximum.accumulate(np.where(is_start, np.arange(len(is_start)), -1))
  return total[1:] - total[last_start + 1]


def text_signals(text: str) -> dict[str, np.ndarray]:
  """Return {signal name: values [T]}, the value of each signal after each character.

  Constant signals are omitted.

  Returns:
    "quotes": 1 inside double quotes, 0 outside. A blank line closes an open quote, so that an
      unmatched quote does not invert the rest of the text.
    "brackets": the number of open ( [ and {. Unmatched closing brackets are ignored.
    "line": the number of characters since the last newline.
    "word": the number of letters and digits since the start of the word.
    "indent": the number of leading spaces and tabs of the line, up to the current position.
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
  """Return columns scaled to mean 0 and norm 1; a constant column becomes 0.

  The dot product of two such columns is their Pearson correlation.
  """
  xs = np.asarray(xs, np.float64)
  varies = xs.max(0) > xs.min(0)  # The variance of a constant may be rounded to > 0.
  xs = np.where(varies, xs - xs.mean(0), 0)
  return xs / np.where(varies, np.linalg.norm(xs, axis=0), 1)


def find_tracking_units(
  hs: np.ndarray, signals: Mapping[str, np.ndarray]
) -> dict[str, TrackingUnit]:
  """Return {signal name: best tracking unit}, selected on the first half of the text.

      unit = argmaxⱼ |r(hs[: T/2, j], z[: T/2])|,   correlation = r(hs[T/2 :, unit], z[T/2 :])

  r is Pearson's correlation, 0 for a constant. Among many units, some correlate with any signal by
  chance on the first half. Such a correlation does not persist on the second half. Therefore
  the returned correlation is measured on the second half.

  Args:
    hs: hidden states [T, H].
    signals: the values z [T] of each signal, as returned by `text_signals`.

  Raises:
    ValueError: the shape of `hs` differs from [T, H] with T ≥ 4 and H ≥ 1, `hs` has non-finite
      values, or `hs` and a signal differ in length.
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
  # If all units or the signal are constant on the first half, no unit is selected and r is 0.
  correlations = np.where(selection.max(0) > 0, correlations, 0)
  return {
    name: TrackingUnit(int(unit), float(correlation))
    for name, unit, correlation in zip(signals, units, correlations)
  }

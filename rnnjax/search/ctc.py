"""What was said? Labels from the probabilities of frames, by connectionist temporal classification.

Each step says one label or the blank, 0, nothing. An alignment a of T such symbols reads as the
labels that are left once repetitions have been merged and then blanks dropped, so

    p(y | x) = Σ {Πₜ p(aₜ | x) : a reads as y}

(Graves, Fernández, Gomez & Schmidhuber 2006).
"""

from collections import defaultdict

import numpy as np


def greedy(log_p: np.ndarray) -> list[int]:
  """The labels that the likeliest alignment reads as; log_p is [T, K]."""
  best = log_p.argmax(-1)
  changed = np.diff(best, prepend=0) != 0
  return best[changed & (best != 0)].tolist()


def beam(log_p: np.ndarray, width: int) -> list[tuple[tuple[int, ...], float]]:
  """The likeliest labellings, best first, each with log p(y | x): prefix search with a beam.

      b(y) = p(blank) (b(y) + e(y))               the alignments of y that end in a blank
      e(y) = p(k) (e(y) + b(y') + [k ≠ k'] e(y'))       and those that end in k

  for y = y' k, whose prefix y' ends in k'; the right sides are of the step before. `width` prefixes
  go on from each step, so what is found of p is a lower bound, and all of it where none is left out
  (Graves 2006; Hannun, Maas, Jurafsky & Ng 2014).

  Args:
    log_p: [T, K], normalised over K.
    width: how many prefixes are held.

  Raises:
    ValueError: a width below 1, or log_p of another shape.
  """
  if width < 1 or np.ndim(log_p) != 2:
    raise ValueError(f"width must be at least 1, log_p [T, K]; got {width}, {np.shape(log_p)}")
  never = -np.inf
  held = {(): (0.0, never)}  # prefix y: log b(y), log e(y)
  for p in np.asarray(log_p, np.float64):
    grown = defaultdict(lambda: np.full(2, never))
    for y, (b, e) in held.items():
      either = np.logaddexp(b, e)
      grown[y][0] = np.logaddexp(grown[y][0], p[0] + either)
      if y:
        grown[y][1] = np.logaddexp(grown[y][1], p[y[-1]] + e)
      for k in range(1, len(p)):
        begun = b if y and k == y[-1] else either
        grown[*y, k][1] = np.logaddexp(grown[*y, k][1], p[k] + begun)
    total = {y: np.logaddexp(*both) for y, both in grown.items()}
    held = {y: grown[y] for y in sorted(total, key=total.get, reverse=True)[:width]}
  return [(y, float(np.logaddexp(*both))) for y, both in held.items()]

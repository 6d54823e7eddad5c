"""What was said? Labels from the probabilities of frames, by connectionist temporal classification.

Each step says one label or the blank, 0, nothing. An alignment a of T such symbols reads as the
labels that are left once repetitions have been merged and then blanks dropped, so

    p(y | x) = Σ {Πₜ p(aₜ | x) : a reads as y}

(Graves, Fernández, Gomez & Schmidhuber 2006).
"""

import numpy as np


def greedy_decode(log_p: np.ndarray) -> list[int]:
  """The labels that the likeliest alignment reads as; log_p is [T, K]."""
  best = log_p.argmax(-1)
  changed = np.diff(best, prepend=0) != 0
  return best[changed & (best != 0)].tolist()


def prefix_beam_search(log_p: np.ndarray, beam_size: int) -> list[tuple[tuple[int, ...], float]]:
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
  if beam_size < 1 or np.ndim(log_p) != 2:
    raise ValueError(f"width must be at least 1, log_p [T, K]; got {beam_size}, {np.shape(log_p)}")
  held, b, e = [()], np.zeros(1), np.full(1, -np.inf)  # prefixes y, log b(y), log e(y)
  for p in np.asarray(log_p, np.float64):
    n, last = len(held), np.array([y[-1] if y else 0 for y in held])
    either = np.logaddexp(b, e)
    grown = either[:, None] + p
    grown[np.arange(n), last] = b + p[last]  # what repeats itself was parted by a blank
    grown[:, 0] = -np.inf
    b, e = either + p[0], e + p[last]
    place = {y: i for i, y in enumerate(held)}
    for i, y in enumerate(held):
      if y and y[:-1] in place:  # y is held, and grows from its prefix, too
        j = place[y[:-1]], y[-1]
        e[i], grown[j] = np.logaddexp(e[i], grown[j]), -np.inf
    total = np.concatenate([np.logaddexp(b, e), grown.ravel()])
    best = np.argsort(-total, kind="stable")[:beam_size]
    best = best[total[best] > -np.inf]
    parents, labels = np.divmod(np.maximum(best - n, 0), len(p))
    held = [
      held[i] if i < n else (*held[parent], int(label))
      for i, parent, label in zip(best, parents, labels)
    ]
    b = np.concatenate([b, np.full(grown.size, -np.inf)])[best]
    e = np.concatenate([e, grown.ravel()])[best]
  return list(zip(held, np.logaddexp(b, e).tolist()))

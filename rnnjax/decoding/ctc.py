"""Decoding for connectionist temporal classification (CTC).

An alignment a assigns a label or the blank, 0, to each of T frames. The alignment is collapsed to a
labeling by merging repeated symbols and then removing blanks. The probability of a labeling y is
the sum over its alignments (Graves, Fernández, Gomez & Schmidhuber 2006):

    p(y | x) = Σ {Πₜ p(aₜ | x) : a collapses to y}
"""

import numpy as np


def greedy_decode(log_p: np.ndarray) -> list[int]:
  """Return the labels of the most likely alignment.

  Args:
    log_p: log probabilities [T, K]; symbol 0 is the blank.
  """
  best = log_p.argmax(-1)
  changed = np.diff(best, prepend=0) != 0
  return best[changed & (best != 0)].tolist()


def prefix_beam_search(log_p: np.ndarray, beam_size: int) -> list[tuple[tuple[int, ...], float]]:
  """Return the most likely labelings y with log p(y | x), best first, by prefix beam search.

      b(y) = p(blank) (b(y) + e(y))                     alignments of y that end in a blank
      e(y) = p(k) (e(y) + b(y') + [k ≠ k'] e(y'))       alignments of y that end in k

  b(y) and e(y) are total probabilities. k is the last label of y, y' is y without k, and k' is the
  last label of y'. [k ≠ k'] is 1 if the labels differ, otherwise 0. The right-hand sides use b and
  e of the previous step. Each step keeps `beam_size` prefixes, so the returned probabilities are
  lower bounds. They are exact if no prefix was discarded (Graves 2006; Hannun, Maas, Jurafsky & Ng
  2014).

  Args:
    log_p: log probabilities [T, K], normalized over K; symbol 0 is the blank.
    beam_size: number of prefixes kept at each step.

  Returns:
    A list of (labels, log p), at most `beam_size` of them.

  Raises:
    ValueError: beam_size < 1, or log_p is not two-dimensional.
  """
  if beam_size < 1 or np.ndim(log_p) != 2:
    raise ValueError(
      f"beam_size must be at least 1 and log_p [T, K]; got {beam_size}, {np.shape(log_p)}"
    )
  prefixes, b, e = [()], np.zeros(1), np.full(1, -np.inf)  # b and e are logarithms
  for p in np.asarray(log_p, np.float64):
    n, last = len(prefixes), np.array([y[-1] if y else 0 for y in prefixes])
    either = np.logaddexp(b, e)
    extended = either[:, None] + p
    extended[np.arange(n), last] = b + p[last]  # a repeated label needs a blank in between
    extended[:, 0] = -np.inf  # a blank does not extend a labeling
    b, e = either + p[0], e + p[last]
    index = {y: i for i, y in enumerate(prefixes)}
    for i, y in enumerate(prefixes):
      if y and y[:-1] in index:  # y is in the beam and is also an extension of its own prefix
        j = index[y[:-1]], y[-1]
        e[i], extended[j] = np.logaddexp(e[i], extended[j]), -np.inf
    # Candidates are the n prefixes, followed by their extensions.
    total = np.concatenate([np.logaddexp(b, e), extended.ravel()])
    best = np.argsort(-total, kind="stable")[:beam_size]
    best = best[total[best] > -np.inf]
    parents, labels = np.divmod(np.maximum(best - n, 0), len(p))
    prefixes = [
      prefixes[i] if i < n else (*prefixes[parent], int(label))
      for i, parent, label in zip(best, parents, labels)
    ]
    b = np.concatenate([b, np.full(extended.size, -np.inf)])[best]
    e = np.concatenate([e, extended.ravel()])[best]
  return list(zip(prefixes, np.logaddexp(b, e).tolist()))

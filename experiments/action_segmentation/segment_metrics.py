"""Labels of frames judged as segments: Lea et al., Temporal Convolutional Networks for Action
Segmentation and Detection, 2017.

A segment is a run of frames of one label; those of the background are none. A label that flickers
costs few frames, but makes many segments.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = (0.10, 0.25, 0.50)


class Segment(NamedTuple):
  """The frames [start, end) of one label."""

  label: int
  start: int
  end: int


def to_segments(labels: np.ndarray, background: int | None = None) -> list[Segment]:
  """The runs of equal labels [T], but those of the background.

  >>> segments([0, 2, 2, 1, 0], background=0)
  [Segment(label=2, start=1, end=3), Segment(label=1, start=3, end=4)]
  """
  labels = np.asarray(labels)
  bounds = [0, *np.flatnonzero(np.diff(labels)) + 1, len(labels)]
  runs = [Segment(int(labels[a]), int(a), int(b)) for a, b in itertools.pairwise(bounds) if a < b]
  return [run for run in runs if run.label != background]


def edit_score(predicted: np.ndarray, target: np.ndarray, background: int | None = None) -> float:
  """1 − d/max(n, m) of the labels of n and m segments, d Levenshtein's distance.

  It asks for the order of the segments alone, not when they are. 1 where there are none.
  """
  one, other = (
    [s.label for s in to_segments(labels, background)] for labels in (predicted, target)
  )
  row = np.arange(len(other) + 1)
  for i, label in enumerate(one, 1):
    above, row = row, np.full_like(row, i)
    for j, its in enumerate(other, 1):
      row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (label != its))
  return float(1 - row[-1] / max(len(one), len(other), 1))


def segment_f1(
  predicted: np.ndarray, target: np.ndarray, iou_threshold: float, background: int | None = None
) -> float:
  """2 TP/(n + m) of n segments found and m true ones.

  A segment found is right (TP) if the true one of its label whose intersection over union with it
  is the largest reaches the overlap, and no segment before has taken that one. 1 where there are
  none.
  """
  one, other = (to_segments(labels, background) for labels in (predicted, target))
  taken = set()
  for segment in one:
    ious = [_iou(segment, its) for its in other]
    best = int(np.argmax(ious)) if ious else -1
    if best >= 0 and ious[best] >= iou_threshold:
      taken.add(best)
  return 2 * len(taken) / (len(one) + len(other)) if one or other else 1.0


def _iou(one: Segment, other: Segment) -> float:
  """Intersection over union; 0 of segments of two labels."""
  both = max(min(one.end, other.end) - max(one.start, other.start), 0)
  union = one.end - one.start + other.end - other.start - both
  return both / union if one.label == other.label else 0.0


def segmentation_scores(
  predicted: Sequence[np.ndarray], target: Sequence[np.ndarray], background: int | None = None
) -> dict[str, float]:
  """The accuracy over all frames, and the means over videos of edit score and F1."""
  pairs = list(zip(predicted, target))
  scores = {"accuracy": np.mean(np.concatenate(predicted) == np.concatenate(target))}
  scores["edit"] = np.mean([edit_score(*pair, background) for pair in pairs])
  for overlap in IOU_THRESHOLDS:
    scores[f"f1@{100 * overlap:.0f}"] = np.mean(
      [segment_f1(*pair, overlap, background) for pair in pairs]
    )
  return {name: float(score) for name, score in scores.items()}

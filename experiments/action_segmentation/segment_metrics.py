"""Segment metrics of frame labels: F1@k and edit score.

Lea et al., Temporal Convolutional Networks for Action Segmentation and Detection, 2017. A segment
is a run of frames with one label; the background has no segments. Labels that flicker cost little
frame accuracy but create many segments, which these metrics penalize.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = (0.10, 0.25, 0.50)


class Segment(NamedTuple):
  """A run of frames with one label.

  Attributes:
    label: the label of its frames.
    start: the first frame.
    end: the frame after the last one.
  """

  label: int
  start: int
  end: int


def to_segments(labels: np.ndarray, background: int | None = None) -> list[Segment]:
  """Return the runs of equal labels [T], without those of the background.

  >>> to_segments([0, 2, 2, 1, 0], background=0)
  [Segment(label=2, start=1, end=3), Segment(label=1, start=3, end=4)]
  """
  labels = np.asarray(labels)
  bounds = [0, *np.flatnonzero(np.diff(labels)) + 1, len(labels)]
  runs = [Segment(int(labels[a]), int(a), int(b)) for a, b in itertools.pairwise(bounds) if a < b]
  return [run for run in runs if run.label != background]


def edit_score(predicted: np.ndarray, target: np.ndarray, background: int | None = None) -> float:
  """Return 1 − d/max(n, m), where d is the Levenshtein distance of the labels of n and m segments.

  It depends on the order of the segments only, not on their times. It is 1 if there are no
  segments.
  """
  predicted_labels, target_labels = (
    [segment.label for segment in to_segments(labels, background)] for labels in (predicted, target)
  )
  # row[j] is the distance of the first i predicted labels to the first j target labels.
  row = np.arange(len(target_labels) + 1)
  for i, predicted_label in enumerate(predicted_labels, 1):
    above, row = row, np.full_like(row, i)
    for j, target_label in enumerate(target_labels, 1):
      row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (predicted_label != target_label))
  return float(1 - row[-1] / max(len(predicted_labels), len(target_labels), 1))


def segment_f1(
  predicted: np.ndarray, target: np.ndarray, iou_threshold: float, background: int | None = None
) -> float:
  """Return the F1 score 2 TP/(n + m) of n predicted and m true segments.

  A predicted segment is a true positive (TP) if the true segment of its label with the largest
  intersection over union reaches the threshold and is not matched with an earlier one. The score
  is 1 if there are no segments.
  """
  predicted_segments, target_segments = (
    to_segments(labels, background) for labels in (predicted, target)
  )
  matched = set()
  for segment in predicted_segments:
    ious = [_iou(segment, target_segment) for target_segment in target_segments]
    best = int(np.argmax(ious)) if ious else -1
    if best >= 0 and ious[best] >= iou_threshold:
      matched.add(best)
  if not predicted_segments and not target_segments:
    return 1.0
  return 2 * len(matched) / (len(predicted_segments) + len(target_segments))


def _iou(a: Segment, b: Segment) -> float:
  """Return the intersection over union; 0 if the labels differ."""
  intersection = max(min(a.end, b.end) - max(a.start, b.start), 0)
  union = a.end - a.start + b.end - b.start - intersection
  return intersection / union if a.label == b.label else 0.0


def segmentation_scores(
  predicted: Sequence[np.ndarray], target: Sequence[np.ndarray], background: int | None = None
) -> dict[str, float]:
  """Return the accuracy over all frames, and the edit score and F1@k averaged over videos."""
  pairs = list(zip(predicted, target))
  scores = {"accuracy": np.mean(np.concatenate(predicted) == np.concatenate(target))}
  scores["edit"] = np.mean([edit_score(*pair, background) for pair in pairs])
  for iou_threshold in IOU_THRESHOLDS:
    scores[f"f1@{100 * iou_threshold:.0f}"] = np.mean(
      [segment_f1(*pair, iou_threshold, background) for pair in pairs]
    )
  return {name: float(score) for name, score in scores.items()}

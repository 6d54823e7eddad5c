"""Segment metrics of frame labels: F1@k and edit score.

F1@k is the F1 score of segments at a threshold of k percent for the intersection over union (Lea et
al., Temporal Convolutional Networks for Action Segmentation and Detection, 2017). A segment is a
maximal run of consecutive frames with one label other than the background.

Flickering labels reduce the frame accuracy only slightly, but create many wrong segments. These
segments reduce the edit score and F1@k.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = (0.10, 0.25, 0.50)


class Segment(NamedTuple):
  """A maximal run of consecutive frames with one label.

  Attributes:
    label: the label of all frames in the segment.
    start: the index of the first frame.
    end: the index after the last frame.
  """

  label: int
  start: int
  end: int


def to_segments(labels: np.ndarray, background: int | None = None) -> list[Segment]:
  """Return the segments of labels [T], without background segments.

  >>> to_segments([0, 2, 2, 1, 0], background=0)
  [Segment(label=2, start=1, end=3), Segment(label=1, start=3, end=4)]
  """
  labels = np.asarray(labels)
  bounds = [0, *np.flatnonzero(np.diff(labels)) + 1, len(labels)]
  runs = [Segment(int(labels[a]), int(a), int(b)) for a, b in itertools.pairwise(bounds) if a < b]
  return [run for run in runs if run.label != background]


def edit_score(predicted: np.ndarray, target: np.ndarray, background: int | None = None) -> float:
  """Return the edit score 1 − d/max(n, m) of n predicted and m target segments.

  d is the Levenshtein distance between the two sequences of segment labels. The score depends on
  the order of the segments, but not on their durations. If n = m = 0, the score is 1.
  """
  predicted_labels, target_labels = (
    [segment.label for segment in to_segments(labels, background)] for labels in (predicted, target)
  )
  # row[j] is the distance between the first i predicted and the first j target labels.
  row = np.arange(len(target_labels) + 1)
  for i, predicted_label in enumerate(predicted_labels, 1):
    above, row = row, np.full_like(row, i)
    for j, target_label in enumerate(target_labels, 1):
      row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (predicted_label != target_label))
  return float(1 - row[-1] / max(len(predicted_labels), len(target_labels), 1))


def segment_f1(
  predicted: np.ndarray, target: np.ndarray, iou_threshold: float, background: int | None = None
) -> float:
  """Return the F1 score 2 TP/(n + m) of n predicted and m target segments.

  For each predicted segment in order, the target segment with the same label and the largest
  intersection over union (IoU) is selected. The predicted segment is a true positive (TP) if the
  IoU is at least `iou_threshold` and the target segment has no earlier match. If n = m = 0, the
  score is 1.
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
  """Return the intersection over union of two segments; 0 if their labels differ."""
  intersection = max(min(a.end, b.end) - max(a.start, b.start), 0)
  union = a.end - a.start + b.end - b.start - intersection
  return intersection / union if a.label == b.label else 0.0


def segmentation_scores(
  predicted: Sequence[np.ndarray], target: Sequence[np.ndarray], background: int | None = None
) -> dict[str, float]:
  """Return the frame accuracy, the edit score and F1@k for each of IOU_THRESHOLDS.

  The accuracy is the fraction of correct frames in all videos. The other scores are means over
  videos.

  Args:
    predicted: the predicted labels [T] of each video.
    target: the true labels [T] of each video.
    background: the background label; None if all labels form segments.
  """
  pairs = list(zip(predicted, target))
  scores = {"accuracy": np.mean(np.concatenate(predicted) == np.concatenate(target))}
  scores["edit"] = np.mean([edit_score(*pair, background) for pair in pairs])
  for iou_threshold in IOU_THRESHOLDS:
    scores[f"f1@{100 * iou_threshold:.0f}"] = np.mean(
      [segment_f1(*pair, iou_threshold, background) for pair in pairs]
    )
  return {name: float(score) for name, score in scores.items()}

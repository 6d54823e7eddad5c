"""Segment metrics on small examples, and the edit score against rapidfuzz."""

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from experiments.action_segmentation import segment_metrics

#                0  1  2  3  4  5  6  7  8  9 10 11
TRUE = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 3, 3, 3])
PREDICTED = np.array([0, 1, 1, 1, 2, 2, 2, 2, 1, 3, 3, 0])


def test_segments_on_small_example():
  assert segment_metrics.to_segments(TRUE, 0) == [(1, 2, 6), (2, 6, 8), (3, 9, 12)]
  assert segment_metrics.to_segments(TRUE)[0] == (0, 0, 2)
  assert segment_metrics.to_segments([]) == segment_metrics.to_segments([0, 0], 0) == []


def test_segment_scores_on_small_example():
  """Labels 1 2 1 3 are one edit of four from 1 2 3. The predicted segments [1, 4) [4, 8) [8, 9)
  [9, 11) have intersections over unions of 2/5, 2/4, 0 and 2/3 with those of their labels."""
  assert segment_metrics.edit_score(PREDICTED, TRUE, 0) == 0.75
  scores = {
    overlap: segment_metrics.segment_f1(PREDICTED, TRUE, overlap, 0)
    for overlap in (0.1, 0.4, 0.5, 0.6, 0.7)
  }
  true_positives = {0.1: 3, 0.4: 3, 0.5: 2, 0.6: 1, 0.7: 0}
  assert scores == pytest.approx(
    {overlap: 2 * tp / (4 + 3) for overlap, tp in true_positives.items()}
  )


def test_over_segmentation_lowers_scores():
  """The second half of a split segment finds its true segment matched: TP 1, n 2, m 1."""
  true = np.ones(10, int)
  predicted = np.where(np.arange(10) == 5, 0, 1)
  assert segment_metrics.segment_f1(predicted, true, 0.25, 0) == pytest.approx(2 / 3)
  assert segment_metrics.edit_score(predicted, true, 0) == 0.5


def test_scores_of_perfect_wrong_and_empty_labels():
  for score in (
    segment_metrics.edit_score,
    lambda *args: segment_metrics.segment_f1(*args[:2], 0.5, *args[2:]),
  ):
    assert score(TRUE, TRUE, 0) == 1
    assert score(TRUE + 4, TRUE, None) == 0
    assert score(np.zeros(3, int), np.zeros(3, int), 0) == 1
    assert score(np.zeros(3, int), np.ones(3, int), 0) == 0


def test_edit_score_equals_rapidfuzz():
  rng = np.random.default_rng(0)
  for _ in range(50):
    predicted, true = rng.integers(0, 4, (2, 30))
    ours = segment_metrics.edit_score(predicted, true, 0)
    sequences = [
      [segment.label for segment in segment_metrics.to_segments(labels, 0)]
      for labels in (predicted, true)
    ]
    assert ours == pytest.approx(Levenshtein.normalized_similarity(*sequences))


def test_accuracy_pools_frames_and_segment_scores_average_videos():
  """The longer video has more weight in the accuracy: (7 + 2)/(12 + 2)."""
  scores = segment_metrics.segmentation_scores(
    [PREDICTED, np.array([1, 1])], [TRUE, np.array([1, 1])], 0
  )
  assert scores["accuracy"] == pytest.approx(9 / 14)
  assert scores["edit"] == pytest.approx((0.75 + 1) / 2)
  assert scores["f1@10"] == scores["f1@25"] == pytest.approx((6 / 7 + 1) / 2)
  assert scores["f1@50"] == pytest.approx((4 / 7 + 1) / 2)

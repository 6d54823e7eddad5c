"""Labels of frames judged as segments: by hand, and edit scores beside a library's distance."""

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from experiments.action_segmentation import segment_metrics

#                0  1  2  3  4  5  6  7  8  9 10 11
TRUE = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 3, 3, 3])
FOUND = np.array([0, 1, 1, 1, 2, 2, 2, 2, 1, 3, 3, 0])


def test_segments_on_small_example():
  assert segment_metrics.to_segments(TRUE, 0) == [(1, 2, 6), (2, 6, 8), (3, 9, 12)]
  assert segment_metrics.to_segments(TRUE)[0] == (0, 0, 2)
  assert segment_metrics.to_segments([]) == segment_metrics.to_segments([0, 0], 0) == []


def test_segment_scores_on_small_example():
  """1 2 3 from 1 2 1 3 is one edit in four. Of [1, 4) [4, 8) [8, 9) [9, 11), the intersections over
  unions with segments of their labels are 2/5, 2/4, 0 and 2/3."""
  assert segment_metrics.edit_score(FOUND, TRUE, 0) == 0.75
  scores = {
    overlap: segment_metrics.segment_f1(FOUND, TRUE, overlap, 0)
    for overlap in (0.1, 0.4, 0.5, 0.6, 0.7)
  }
  right = {0.1: 3, 0.4: 3, 0.5: 2, 0.6: 1, 0.7: 0}
  assert scores == pytest.approx({overlap: 2 * tp / (4 + 3) for overlap, tp in right.items()})


def test_over_segmentation_lowers_scores():
  """The half of a segment that is found second finds it taken: TP 1, n 2, m 1."""
  true = np.ones(10, int)
  found = np.where(np.arange(10) == 5, 0, 1)
  assert segment_metrics.segment_f1(found, true, 0.25, 0) == pytest.approx(2 / 3)
  assert segment_metrics.edit_score(found, true, 0) == 0.5


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
  draw = np.random.default_rng(0)
  for _ in range(50):
    found, true = draw.integers(0, 4, (2, 30))
    ours = segment_metrics.edit_score(found, true, 0)
    names = [[s.label for s in segment_metrics.to_segments(labels, 0)] for labels in (found, true)]
    assert ours == pytest.approx(Levenshtein.normalized_similarity(*names))


def test_accuracy_pools_frames_and_segment_scores_average_videos():
  """The accuracy weighs the longer video more: (7 + 2)/(12 + 2)."""
  judged = segment_metrics.segmentation_scores(
    [FOUND, np.array([1, 1])], [TRUE, np.array([1, 1])], 0
  )
  assert judged["accuracy"] == pytest.approx(9 / 14)
  assert judged["edit"] == pytest.approx((0.75 + 1) / 2)
  assert judged["f1@10"] == judged["f1@25"] == pytest.approx((6 / 7 + 1) / 2)
  assert judged["f1@50"] == pytest.approx((4 / 7 + 1) / 2)

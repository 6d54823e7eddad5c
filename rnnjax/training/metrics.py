"""Metrics as sums. (A mean of batch means would depend on how the data is split into batches.)"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.types import Array


class Mean(NamedTuple):
  """A weighted mean, stored as two sums that can be added over batches and hosts.

  Attributes:
    total: Σ weight · value.
    weight: Σ weight.
  """

  total: Array | float
  weight: Array | float

  def __add__(self, other):
    return Mean(self.total + other.total, self.weight + other.weight)

  @property
  def value(self) -> float:
    """The mean total / weight; NaN if the weight is 0."""
    return float(self.total) / float(self.weight) if float(self.weight) else float("nan")


def merge_metrics(totals: dict[str, Mean], metrics: dict[str, Mean]) -> dict[str, Mean]:
  """Add the metrics of one batch to the totals, on the host in float64."""
  merged = {}
  for name, metric in jax.device_get(metrics).items():
    total, weight = totals.get(name, (0, 0))
    merged[name] = Mean(np.float64(total), np.float64(weight)) + metric
  return merged


def weighted_mean(values: Array, weights: Array) -> Mean:
  """Return the weighted mean of an array; `weights` has the same shape as `values`."""
  return Mean(jnp.sum(values * weights), jnp.sum(weights))


def perplexity(nats: float) -> float:
  """Return e^nats, where `nats` is the cross entropy per token; ∞ on overflow."""
  with np.errstate(over="ignore"):
    return float(np.exp(nats))


def span_f1(
  predicted: Array, target: Array, mask: Array, span_tables: tuple[Array, Array, Array]
) -> Mean:
  """Return the strict F1 score of spans. A span is correct if its type and both ends are correct.

      F1 = 2 Σ correct / Σ (predicted + target)

  A span consists of a tag that begins it, tags that continue it, and a tag that ends it. An
  unfinished span does not count. F1 is a ratio of sums, so adding the results of all batches gives
  the F1 of the data set.

  Args:
    predicted, target: tags [T, B].
    mask: [T, B], False at padding.
    span_tables: three boolean tables: [K], whether tag i begins a span; [K], whether tag i ends a
      span; [K, K], whether tag j continues a span after tag i (at [i, j]).

  Returns:
    A Mean whose total is 2 Σ correct and whose weight is Σ (predicted + target).
  """
  begins, ends, continues = map(jnp.asarray, span_tables)
  steps = jnp.arange(predicted.shape[0])[:, None]

  def find_spans(tags):
    """Return two arrays [T, B]: whether a span ends at each step, and the span's first step."""
    begin, end = begins[tags] & mask, ends[tags] & mask
    is_continued = jnp.pad(continues[tags[:-1], tags[1:]], [(1, 0), (0, 0)])
    # A span is complete if the number of breaks has not changed since its first step.
    num_breaks = jnp.cumsum(~is_continued & ~begin, 0)
    begin_step = jax.lax.cummax(jnp.where(begin, steps, -1))
    breaks_at_begin = jnp.take_along_axis(num_breaks, jnp.maximum(begin_step, 0), 0)
    return end & (begin_step >= 0) & (num_breaks == breaks_at_begin), begin_step

  (predicted_end, predicted_begin) = find_spans(predicted)
  (target_end, target_begin) = find_spans(target)
  same_span = predicted_end & target_end & (predicted_begin == target_begin)
  correct = same_span & (predicted == target)
  num_spans = (predicted_end.sum() + target_end.sum()).astype(jnp.float32)
  return Mean(2.0 * correct.sum(), num_spans)

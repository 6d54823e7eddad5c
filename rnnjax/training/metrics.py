"""Metrics as sums: a mean of means would depend on how the data was cut into batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.types import Array


class Mean(NamedTuple):
  """A mean on its way: Σ weight·value and Σ weight, summed over batches, hosts and padding."""

  total: Array | float
  weight: Array | float

  def __add__(self, other):
    return Mean(self.total + other.total, self.weight + other.weight)

  @property
  def value(self) -> float:
    """Σ weight·value / Σ weight; nan where nothing was weighed."""
    return float(self.total) / float(self.weight) if float(self.weight) else float("nan")


def merge_metrics(totals: dict[str, Mean], metrics: dict[str, Mean]) -> dict[str, Mean]:
  """The metrics of all batches so far and of one more, on the host, in float64."""
  so_far = lambda name: Mean(*map(np.float64, totals.get(name, (0, 0))))
  return {name: so_far(name) + one for name, one in jax.device_get(metrics).items()}


def weighted_mean(values: Array, weights: Array) -> Mean:
  """The Mean of values under weights, both of one shape."""
  return Mean(jnp.sum(values * weights), jnp.sum(weights))


def perplexity(nats: float) -> float:
  """e^nats, of nats a token; ∞ beyond all numbers."""
  with np.errstate(over="ignore"):
    return float(np.exp(nats))


def span_f1(
  predicted: Array, target: Array, mask: Array, span_tables: tuple[Array, Array, Array]
) -> Mean:
  """F1 of spans, each found exactly or not at all: 2 Σ correct / Σ (found + true).

  A tag that begins a span, tags that go on with it, and one that ends it make a span; what breaks
  off is none. So it is the strict F1 of whole corpora, being a ratio of sums.

  Args:
    found, true: [T, B], tags.
    live: [T, B], false beyond a row's end.
    pieces: begins [K], ends [K], joins [K, K]: which tags begin a span, end it, go on with it.
  """
  begins, ends, joins = map(jnp.asarray, span_tables)
  steps = jnp.arange(predicted.shape[0])[:, None]

  def spans(tags):
    """Whether a span ends at each step, and where it began."""
    begin, end = begins[tags] & mask, ends[tags] & mask
    joined = jnp.pad(joins[tags[:-1], tags[1:]], [(1, 0), (0, 0)])
    breaks = jnp.cumsum(~joined & ~begin, 0)
    begun = jax.lax.cummax(jnp.where(begin, steps, -1))
    whole = breaks == jnp.take_along_axis(breaks, jnp.maximum(begun, 0), 0)
    return end & (begun >= 0) & whole, begun

  (one, here), (other, there) = spans(predicted), spans(target)
  correct = one & other & (here == there) & (predicted == target)
  return Mean(2.0 * correct.sum(), (one.sum() + other.sum()).astype(jnp.float32))

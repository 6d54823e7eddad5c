"""Tasks: all that training knows of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rnnjax import losses, metrics
from rnnjax.types import Key, Params


class Task(NamedTuple):
  """What is learnt, as three pure functions of a batch, which is a dict of arrays.

  Attributes:
    init: key, batch -> params.
    loss: params, batch, key -> {name: Mean}, of which that named "loss" is minimised.
    score: params, batch -> {name: Mean}.
  """

  init: Callable[[Key, Any], Params]
  loss: Callable[[Params, Any, Key], dict[str, metrics.Mean]]
  score: Callable[[Params, Any], dict[str, metrics.Mean]]


def classification(model: Any, smoothing: float = 0.0) -> Task:
  """One label for each sequence (many to one).

  A batch is {"tokens": [T, B], "lengths": [B], "labels": [B], "weights": [B]}; weight 0 marks a
  row that only fills the batch; "features" [T, B, F] may come along. The loss is the mean cross
  entropy over the weighted rows.

  Args:
    model: a flax module, called as tokens, lengths, features=None, key=None -> logits [B, K].
    smoothing: label smoothing, in training only.
  """

  inputs = lambda batch: (batch["tokens"], batch["lengths"], batch.get("features"))

  def init(key, batch):
    return model.init(key, *inputs(batch))["params"]

  def measure(logits, batch, smoothing=0.0):
    labels, weights = batch["labels"], batch["weights"]
    return {
      "loss": metrics.mean(losses.cross_entropy(logits, labels, smoothing), weights),
      "accuracy": metrics.mean(losses.predict(logits) == labels, weights),
    }

  def loss(params, batch, key):
    return measure(model.apply({"params": params}, *inputs(batch), key), batch, smoothing)

  def score(params, batch):
    return measure(model.apply({"params": params}, *inputs(batch)), batch)

  return Task(init, loss, score)

"""Tasks: all that training knows of a model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.attention import coverage_loss
from rnnjax.masking import alive
from rnnjax.training import losses, metrics
from rnnjax.types import Array, Carry, Key, Params

INPUTS = ("tokens", "lengths", "features")  # what a model is called with
Measure = Callable[[Array, dict[str, Array]], dict[str, metrics.Mean]]
Answer = Callable[[Array, dict[str, Array]], dict[str, Array]]


class Task(NamedTuple):
  """What is learnt, as pure functions of a batch, which is a dict of arrays.

  Attributes:
    init: key, batch -> params.
    loss: params, carry, batch, key -> carry, {name: Mean}, of which that named "loss" is minimised.
    score: params, carry, batch -> carry, {name: Mean}.
    start: params, batch -> the first carry: what one batch leaves to the next, a tree of arrays
      [B, ...], or () for nothing.
    predict: params, inputs -> {name: array}, what a model says of inputs alone, which are a batch
      without what is to be learnt. What it gives as "carry" can be an input, too.
  """

  init: Callable[[Key, Any], Params]
  loss: Callable[[Params, Carry, Any, Key], tuple[Carry, dict[str, metrics.Mean]]]
  score: Callable[[Params, Carry, Any], tuple[Carry, dict[str, metrics.Mean]]]
  start: Callable[[Params, Any], Carry] = lambda params, batch: ()
  predict: Callable[[Params, Any], dict[str, Any]] | None = None


def classification(model: Any, smoothing: float = 0.0, inputs: tuple[str, ...] = INPUTS) -> Task:
  """One label for each sequence (many to one).

  A batch is {"tokens": [T, B], "lengths": [B], "labels": [B], "weights": [B]}; weight 0 marks a
  row that only fills the batch; "features" [T, B, F] may come along. The loss is the mean cross
  entropy over the weighted rows.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> logits [B, K].
    smoothing: label smoothing, in training only.
    inputs: what of a batch the model is called with, in this order; what is not there is left out.
  """

  def measure(logits, batch, smoothing=0.0):
    labels, weights = batch["labels"], batch["weights"]
    return {
      "loss": metrics.mean(losses.cross_entropy(logits, labels, smoothing), weights),
      "accuracy": metrics.mean(losses.predict(logits) == labels, weights),
    }

  answer = lambda logits, batch: {"probabilities": losses.probabilities(logits)}
  learn = functools.partial(measure, smoothing=smoothing)
  return supervised(model, measure, learn, inputs, answer)


def supervised(
  model: Any,
  measure: Measure,
  learn: Measure | None = None,
  inputs: tuple[str, ...] = INPUTS,
  answer: Answer = lambda outputs, batch: {"outputs": outputs},
) -> Task:
  """Whatever a model makes of a batch, measured.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> outputs.
    measure: outputs, batch -> {name: Mean}, of which that named "loss" is minimised.
    learn: the same in training, where it differs.
    inputs: as for `classification`.
    answer: outputs, batch -> {name: array}, what the model says.
  """
  read = lambda batch: [batch[name] for name in inputs if name in batch]

  def init(key, batch):
    return model.init(key, *read(batch))["params"]

  def apply(params, batch, key=None):
    return _wide(model.apply({"params": params}, *_like(params, read(batch)), key=key))

  def loss(params, carry, batch, key):
    return carry, (learn or measure)(apply(params, batch, key), batch)

  def score(params, carry, batch):
    return carry, measure(apply(params, batch), batch)

  def predict(params, batch):
    return answer(apply(params, batch), batch)

  return Task(init, loss, score, predict=predict)


def _like(params: Params, inputs: Any) -> Any:
  """The inputs, of which what is no whole number has the type of the parameters."""
  kind = jax.tree.leaves(params)[0].dtype
  cast = lambda a: a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a
  return jax.tree.map(cast, inputs)


def _wide(outputs: Any) -> Any:
  """The outputs in float32 at least, so that a loss is, whatever a model computes in."""
  cast = lambda y: y.astype(jnp.promote_types(y.dtype, jnp.float32))
  return jax.tree.map(cast, outputs)


def tagging(model: Any, pieces: tuple | None = None) -> Task:
  """A tag for each token (many to many, in step).

  A batch is {"tokens": [T, B], "lengths": [B], "tags": [T, B], "weights": [B]}; weight 0 marks a
  row that only fills the batch; "characters" [T, B, C] and "columns" [T, B, N] may come along. The
  loss is −Σ log p(y) / Σ lengths: nats per token.

  Args:
    model: a Tagger.
    pieces: of `metrics.f1`, where the tags are of spans.
  """

  inputs = lambda batch: [*map(batch.get, ("tokens", "lengths", "characters", "columns"))]

  def init(key, batch):
    return model.init(key, *inputs(batch))["params"]

  def read(params, batch, key=None):
    return _wide(model.apply({"params": params}, *_like(params, inputs(batch)), key))

  def measure(last, scores, batch):
    p = model.tags.log_likelihood(last, scores, batch["tags"], batch["lengths"])
    return {"loss": metrics.Mean(-p @ batch["weights"], batch["lengths"] @ batch["weights"])}

  def loss(params, carry, batch, key):
    return carry, measure(*read(params, batch, key), batch)

  def score(params, carry, batch):
    last, scores = read(params, batch)
    found = model.tags.best(last, scores, batch["lengths"])
    live = alive(scores, batch["lengths"]) & (batch["weights"] > 0)[None]
    scored = {"accuracy": metrics.mean(found == batch["tags"], live)}
    if pieces:
      scored["f1"] = metrics.f1(found, batch["tags"], live, pieces)
    return carry, measure(last, scores, batch) | scored

  def predict(params, batch):
    last, scores = read(params, batch)
    # One dead step more: so even of T steps, whatever T will be, one follows the first.
    known = last, jnp.pad(scores, [(0, 1), (0, 0), (0, 0)]), batch["lengths"]
    best, p = model.tags.best(*known), model.tags.marginals(*known)
    return {"tags": best[:-1], "probabilities": p[:-1]}

  return Task(init, loss, score, predict=predict)


def rewriting(model: Any, smoothing: float = 0.0, coverage: float = 0.0) -> Task:
  """A sequence for each sequence (many to many, not in step), by teacher forcing.

  A batch is {"tokens": [S, B], "lengths": [B], "targets": [T + 1, B], "target_lengths": [B],
  "weights": [B]}, of which a target begins with what the decoder first reads and ends with what
  ends it. The loss is nats per token of the target; the accuracy, in scores only, is the share of
  tokens that were the likeliest after what was true before them.

  Args:
    model: a Translator.
    smoothing: label smoothing, in training only.
    coverage: λ; in training λ Σₜ Σₛ min(αₜₛ, cₜₛ) is added, what is attended to again (See, Liu &
      Manning 2017).
  """

  def inputs(batch):
    tokens, lengths, targets = (batch[name] for name in ("tokens", "lengths", "targets"))
    weights = alive(targets[1:, :, None], batch["target_lengths"] - 1) * batch["weights"][None]
    return tokens, lengths, targets, weights

  def init(key, batch):
    return model.init(key, *inputs(batch))["params"]

  def measure(params, batch, *how, coverage=0.0):
    tokens, *rest = inputs(batch)
    weights = rest[-1]
    total, α = _wide(model.apply({"params": params}, _like(params, tokens), *rest, *how))
    if coverage:
      total += coverage * jnp.sum(weights * coverage_loss(α))
    return {"loss": metrics.Mean(total, weights.sum())}

  def loss(params, carry, batch, key):
    return carry, measure(params, batch, smoothing, key, coverage=coverage)

  def score(params, carry, batch):
    tokens, lengths, targets, weights = inputs(batch)
    given = _like(params, tokens), lengths, targets[:-1]
    right = model.apply({"params": params}, *given, method="guess") == targets[1:]
    return carry, measure(params, batch) | {"accuracy": metrics.mean(right, weights)}

  return Task(init, loss, score)


def language(
  model: Any, activation: float = 0.0, temporal: float = 0.0, restart: float = 0.0
) -> Task:
  """Each token from those before it, over a text that goes on from batch to batch.

  A batch is {"tokens": [T + 1, B], "weights": [T, B]}: a window of B columns of a text, whose
  neighbours wₜ, wₜ₊₁ are weighed. What the encoder remembers is carried to the next batch without
  its gradient: truncated backpropagation through time (Williams & Peng 1990). The loss is nats per
  token; in training come α Σ drop(h)²/H and β Σ (hₜ − hₜ₋₁)²/H (Merity, McCann & Socher 2017).

  Args:
    model: a LanguageModel.
    activation, temporal: α, β.
    restart: rate at which a column starts anew with a window, in training. Else a model never
      learns to begin: of columns that begin with nothing remembered, an LSTM can get stuck in some;
      and an encoder's learned start is not learnt.
  """

  def apply(params, carry, batch, key=None):
    return model.apply({"params": params}, batch["tokens"], batch["weights"], carry, key)

  def init(key, batch):
    return model.init(key, batch["tokens"], batch["weights"])["params"]

  def start(params, batch):
    return model.apply({"params": params}, batch["tokens"][:0], method="logits")[0]

  def loss(params, carry, batch, key):
    if key is not None and restart:
      key, drawn = jax.random.split(key)
      kept = jax.random.bernoulli(drawn, 1 - restart, batch["tokens"].shape[1:])
      first = start(params, batch)
      carry = jax.tree.map(lambda c, new: jnp.where(kept[:, None], c, new), carry, first)
    carry, total, *seen = apply(params, carry, batch, key)
    ys, dropped = _wide(seen)
    penalty = activation * losses.activation(dropped).sum() if activation else 0.0
    penalty += temporal * losses.temporal(ys).sum() if temporal else 0.0
    weight = batch["weights"].sum()
    nats = metrics.Mean(total, weight)
    return carry, {"loss": metrics.Mean(total + penalty, weight), "nats": nats}

  def score(params, carry, batch):
    carry, total, *_ = apply(params, carry, batch)
    return carry, {"loss": metrics.Mean(total, batch["weights"].sum())}

  def predict(params, batch):
    given = batch["tokens"], batch.get("carry")
    carry, _, logits = model.apply({"params": params}, *given, method="logits")
    return {"log_p": jax.nn.log_softmax(_wide(logits)), "carry": carry}

  return Task(init, loss, score, start, predict)

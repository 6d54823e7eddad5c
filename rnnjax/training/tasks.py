"""Tasks: all that training knows of a model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.attention import coverage_loss
from rnnjax.masking import padding_mask
from rnnjax.training import losses, metrics
from rnnjax.types import Array, Carry, Key, Params

MODEL_INPUTS = ("tokens", "lengths", "features")  # what a model is called with
MetricsFn = Callable[[Array, dict[str, Array]], dict[str, metrics.Mean]]
PredictFn = Callable[[Array, dict[str, Array]], dict[str, Array]]


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
  initial_carry: Callable[[Params, Any], Carry] = lambda params, batch: ()
  predict: Callable[[Params, Any], dict[str, Any]] | None = None


def classification_task(
  model: Any, label_smoothing: float = 0.0, input_names: tuple[str, ...] = MODEL_INPUTS
) -> Task:
  """One label for each sequence (many to one).

  A batch is {"tokens": [T, B], "lengths": [B], "labels": [B], "weights": [B]}; weight 0 marks a
  row that only fills the batch; "features" [T, B, F] may come along. The loss is the mean cross
  entropy over the weighted rows.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> logits [B, K].
    smoothing: label smoothing, in training only.
    inputs: what of a batch the model is called with, in this order; what is not there is left out.
  """

  def measure(logits, batch, label_smoothing=0.0):
    labels, weights = batch["labels"], batch["weights"]
    return {
      "loss": metrics.weighted_mean(losses.cross_entropy(logits, labels, label_smoothing), weights),
      "accuracy": metrics.weighted_mean(losses.predict_labels(logits) == labels, weights),
    }

  answer = lambda logits, batch: {"probabilities": losses.class_probabilities(logits)}
  learn = functools.partial(measure, label_smoothing=label_smoothing)
  return supervised_task(model, measure, learn, input_names, answer)


def supervised_task(
  model: Any,
  metrics_fn: MetricsFn,
  train_metrics_fn: MetricsFn | None = None,
  input_names: tuple[str, ...] = MODEL_INPUTS,
  predict_fn: PredictFn = lambda outputs, batch: {"outputs": outputs},
) -> Task:
  """Whatever a model makes of a batch, measured.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> outputs.
    measure: outputs, batch -> {name: Mean}, of which that named "loss" is minimised.
    learn: the same in training, where it differs.
    inputs: as for `classification`.
    answer: outputs, batch -> {name: array}, what the model says.
  """
  read = lambda batch: [batch[name] for name in input_names if name in batch]

  def init(key, batch):
    return model.init(key, *read(batch))["params"]

  def apply(params, batch, key=None):
    return _promote_to_float32(
      model.apply({"params": params}, *_cast_inputs(params, read(batch)), key=key)
    )

  def loss(params, carry, batch, key):
    return carry, (train_metrics_fn or metrics_fn)(apply(params, batch, key), batch)

  def score(params, carry, batch):
    return carry, metrics_fn(apply(params, batch), batch)

  def predict(params, batch):
    return predict_fn(apply(params, batch), batch)

  return Task(init, loss, score, predict=predict)


def _cast_inputs(params: Params, inputs: Any) -> Any:
  """The inputs, of which what is no whole number has the type of the parameters."""
  kind = jax.tree.leaves(params)[0].dtype
  cast = lambda a: a.astype(kind) if jnp.issubdtype(a.dtype, jnp.floating) else a
  return jax.tree.map(cast, inputs)


def _promote_to_float32(outputs: Any) -> Any:
  """The outputs in float32 at least, so that a loss is, whatever a model computes in."""
  cast = lambda y: y.astype(jnp.promote_types(y.dtype, jnp.float32))
  return jax.tree.map(cast, outputs)


def tagging_task(model: Any, span_tables: tuple | None = None) -> Task:
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
    return _promote_to_float32(
      model.apply({"params": params}, *_cast_inputs(params, inputs(batch)), key)
    )

  def measure(last, scores, batch):
    p = model.tag_layer.log_likelihood(last, scores, batch["tags"], batch["lengths"])
    return {"loss": metrics.Mean(-p @ batch["weights"], batch["lengths"] @ batch["weights"])}

  def loss(params, carry, batch, key):
    return carry, measure(*read(params, batch, key), batch)

  def score(params, carry, batch):
    last, scores = read(params, batch)
    found = model.tag_layer.best_tags(last, scores, batch["lengths"])
    live = padding_mask(scores, batch["lengths"]) & (batch["weights"] > 0)[None]
    scored = {"accuracy": metrics.weighted_mean(found == batch["tags"], live)}
    if span_tables:
      scored["f1"] = metrics.span_f1(found, batch["tags"], live, span_tables)
    return carry, measure(last, scores, batch) | scored

  def predict(params, batch):
    last, scores = read(params, batch)
    # One dead step more: so even of T steps, whatever T will be, one follows the first.
    known = last, jnp.pad(scores, [(0, 1), (0, 0), (0, 0)]), batch["lengths"]
    best, p = model.tag_layer.best_tags(*known), model.tag_layer.marginals(*known)
    return {"tags": best[:-1], "probabilities": p[:-1]}

  return Task(init, loss, score, predict=predict)


def seq2seq_task(model: Any, label_smoothing: float = 0.0, coverage_weight: float = 0.0) -> Task:
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
    weights = (
      padding_mask(targets[1:, :, None], batch["target_lengths"] - 1) * batch["weights"][None]
    )
    return tokens, lengths, targets, weights

  def init(key, batch):
    return model.init(key, *inputs(batch))["params"]

  def measure(params, batch, *model_args, coverage_weight=0.0):
    tokens, *rest = inputs(batch)
    weights = rest[-1]
    total, α = _promote_to_float32(
      model.apply({"params": params}, _cast_inputs(params, tokens), *rest, *model_args)
    )
    if coverage_weight:
      total += coverage_weight * jnp.sum(weights * coverage_loss(α))
    return {"loss": metrics.Mean(total, weights.sum())}

  def loss(params, carry, batch, key):
    return carry, measure(params, batch, label_smoothing, key, coverage_weight=coverage_weight)

  def score(params, carry, batch):
    tokens, lengths, targets, weights = inputs(batch)
    given = _cast_inputs(params, tokens), lengths, targets[:-1]
    right = model.apply({"params": params}, *given, method="guess") == targets[1:]
    return carry, measure(params, batch) | {"accuracy": metrics.weighted_mean(right, weights)}

  return Task(init, loss, score)


def language_modeling_task(
  model: Any, activation_reg: float = 0.0, temporal_reg: float = 0.0, state_reset_prob: float = 0.0
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
    if key is not None and state_reset_prob:
      key, drawn = jax.random.split(key)
      kept = jax.random.bernoulli(drawn, 1 - state_reset_prob, batch["tokens"].shape[1:])
      first = start(params, batch)
      carry = jax.tree.map(lambda c, new: jnp.where(kept[:, None], c, new), carry, first)
    carry, total, *seen = apply(params, carry, batch, key)
    ys, dropped = _promote_to_float32(seen)
    penalty = activation_reg * losses.activation_penalty(dropped).sum() if activation_reg else 0.0
    penalty += temporal_reg * losses.temporal_penalty(ys).sum() if temporal_reg else 0.0
    weight = batch["weights"].sum()
    nats = metrics.Mean(total, weight)
    return carry, {"loss": metrics.Mean(total + penalty, weight), "nats": nats}

  def score(params, carry, batch):
    carry, total, *_ = apply(params, carry, batch)
    return carry, {"loss": metrics.Mean(total, batch["weights"].sum())}

  def predict(params, batch):
    given = batch["tokens"], batch.get("carry")
    carry, _, logits = model.apply({"params": params}, *given, method="logits")
    return {"log_p": jax.nn.log_softmax(_promote_to_float32(logits)), "carry": carry}

  return Task(init, loss, score, start, predict)

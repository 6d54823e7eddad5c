"""Tasks: learning problems as pure functions. Training calls a model only through its task."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.attention import coverage_loss
from rnnjax.masking import padding_mask
from rnnjax.training import losses, metrics
from rnnjax.types import Array, Carry, Key, Params

MODEL_INPUTS = ("tokens", "lengths", "features")  # entries of a batch that a model is called with
MetricsFn = Callable[[Array, dict[str, Array]], dict[str, metrics.Mean]]
PredictFn = Callable[[Array, dict[str, Array]], dict[str, Array]]


class Task(NamedTuple):
  """A learning problem as pure functions of a batch, which is a dict of arrays.

  Attributes:
    init: key, batch -> params.
    loss: params, carry, batch, key -> carry, {name: Mean}. The metric "loss" is minimized.
    score: params, carry, batch -> carry, {name: Mean}, for validation and test.
    initial_carry: params, batch -> the carry before the first batch: a pytree of arrays [B, ...],
      or () for none. Each batch passes its final carry to the next.
    predict: params, inputs -> {name: array}, the outputs for a batch without labels. An output
      "carry" can be passed as an input of the next call.
  """

  init: Callable[[Key, Any], Params]
  loss: Callable[[Params, Carry, Any, Key], tuple[Carry, dict[str, metrics.Mean]]]
  score: Callable[[Params, Carry, Any], tuple[Carry, dict[str, metrics.Mean]]]
  initial_carry: Callable[[Params, Any], Carry] = lambda params, batch: ()
  predict: Callable[[Params, Any], dict[str, Any]] | None = None


def classification_task(
  model: Any, label_smoothing: float = 0.0, input_names: tuple[str, ...] = MODEL_INPUTS
) -> Task:
  """Return a task that predicts one label per sequence (many to one).

  A batch is {"tokens": [T, B], "lengths": [B], "labels": [B], "weights": [B]}, optionally with
  "features" [T, B, F]. Rows of weight 0 only fill the batch. The loss is the weighted mean of the
  cross entropy.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> logits [B, K].
    label_smoothing: label smoothing of the training loss.
    input_names: the entries of a batch that the model is called with, in order. Entries that the
      batch does not have are skipped.
  """

  def score_metrics(logits, batch, label_smoothing=0.0):
    labels, weights = batch["labels"], batch["weights"]
    return {
      "loss": metrics.weighted_mean(losses.cross_entropy(logits, labels, label_smoothing), weights),
      "accuracy": metrics.weighted_mean(losses.predict_labels(logits) == labels, weights),
    }

  def predict(logits, batch):
    return {"probabilities": losses.class_probabilities(logits)}

  train_metrics = functools.partial(score_metrics, label_smoothing=label_smoothing)
  return supervised_task(model, score_metrics, train_metrics, input_names, predict)


def supervised_task(
  model: Any,
  metrics_fn: MetricsFn,
  train_metrics_fn: MetricsFn | None = None,
  input_names: tuple[str, ...] = MODEL_INPUTS,
  predict_fn: PredictFn = lambda outputs, batch: {"outputs": outputs},
) -> Task:
  """Return a task whose metrics are a function of the model's outputs and the batch.

  Args:
    model: a flax module, called as tokens, lengths, [features,] key=None -> outputs.
    metrics_fn: outputs, batch -> {name: Mean}. The metric "loss" is minimized.
    train_metrics_fn: the metrics function of training; None for metrics_fn.
    input_names: as for `classification_task`.
    predict_fn: outputs, batch -> {name: array}, the result of `Task.predict`.
  """
  train_metrics_fn = train_metrics_fn or metrics_fn

  def select_inputs(batch):
    return [batch[name] for name in input_names if name in batch]

  def init(key, batch):
    return model.init(key, *select_inputs(batch))["params"]

  def apply(params, batch, key=None):
    inputs = _cast_inputs(params, select_inputs(batch))
    return _promote_to_float32(model.apply({"params": params}, *inputs, key=key))

  def loss(params, carry, batch, key):
    return carry, train_metrics_fn(apply(params, batch, key), batch)

  def score(params, carry, batch):
    return carry, metrics_fn(apply(params, batch), batch)

  def predict(params, batch):
    return predict_fn(apply(params, batch), batch)

  return Task(init, loss, score, predict=predict)


def _cast_inputs(params: Params, inputs: Any) -> Any:
  """Cast floating-point inputs to the dtype of the parameters."""
  dtype = jax.tree.leaves(params)[0].dtype

  def cast(a):
    return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

  return jax.tree.map(cast, inputs)


def _promote_to_float32(outputs: Any) -> Any:
  """Cast outputs to at least float32, so that losses are summed in float32."""
  return jax.tree.map(lambda y: y.astype(jnp.promote_types(y.dtype, jnp.float32)), outputs)


def tagging_task(model: Any, span_tables: tuple | None = None) -> Task:
  """Return a task that predicts one tag per token (many to many, of equal length).

  A batch is {"tokens": [T, B], "lengths": [B], "tags": [T, B], "weights": [B]}, optionally with
  "characters" [T, B, C] and "columns" [T, B, N]. Rows of weight 0 are padding. The loss is
  −Σ log p(y) / Σ lengths, in nats per token.

  Args:
    model: a `Tagger`.
    span_tables: as for `metrics.span_f1`, if the tags encode spans; None for no F1 score.
  """

  def select_inputs(batch):
    return [batch.get(name) for name in ("tokens", "lengths", "characters", "columns")]

  def init(key, batch):
    return model.init(key, *select_inputs(batch))["params"]

  def apply(params, batch, key=None):
    inputs = _cast_inputs(params, select_inputs(batch))
    return _promote_to_float32(model.apply({"params": params}, *inputs, key))

  def loss_metrics(tag_params, scores, batch):
    log_p = model.tag_layer.log_likelihood(tag_params, scores, batch["tags"], batch["lengths"])
    return {"loss": metrics.Mean(-log_p @ batch["weights"], batch["lengths"] @ batch["weights"])}

  def loss(params, carry, batch, key):
    return carry, loss_metrics(*apply(params, batch, key), batch)

  def score(params, carry, batch):
    tag_params, scores = apply(params, batch)
    tags = model.tag_layer.best_tags(tag_params, scores, batch["lengths"])
    mask = padding_mask(scores, batch["lengths"]) & (batch["weights"] > 0)[None]
    scored = {"accuracy": metrics.weighted_mean(tags == batch["tags"], mask)}
    if span_tables:
      scored["f1"] = metrics.span_f1(tags, batch["tags"], mask, span_tables)
    return carry, loss_metrics(tag_params, scores, batch) | scored

  def predict(params, batch):
    tag_params, scores = apply(params, batch)
    # In an exported program T is symbolic and may be 1. An additional padded step guarantees T ≥ 2,
    # so T = 1 needs no special case.
    padded_scores = jnp.pad(scores, [(0, 1), (0, 0), (0, 0)])
    inputs = tag_params, padded_scores, batch["lengths"]
    tags, marginals = model.tag_layer.best_tags(*inputs), model.tag_layer.marginals(*inputs)
    return {"tags": tags[:-1], "probabilities": marginals[:-1]}

  return Task(init, loss, score, predict=predict)


def seq2seq_task(model: Any, label_smoothing: float = 0.0, coverage_weight: float = 0.0) -> Task:
  """Return a task that predicts a target sequence from a source sequence, with teacher forcing.

  A batch is {"tokens": [S, B], "lengths": [B], "targets": [T + 1, B], "target_lengths": [B],
  "weights": [B]}. A target begins with the start token and ends with the end token. The loss is in
  nats per target token. Validation and test also compute the accuracy: the fraction of target
  tokens that are the most probable token, given the correct previous tokens.

  Args:
    model: a `Seq2Seq`.
    label_smoothing: label smoothing of the training loss.
    coverage_weight: λ; training adds λ Σₜ Σₛ min(αₜₛ, cₜₛ), a penalty on repeated attention (See,
      Liu & Manning 2017).
  """

  def select_inputs(batch):
    """Return the source tokens, the source lengths, the targets, and the target weights [T, B]."""
    tokens, lengths, targets = (batch[name] for name in ("tokens", "lengths", "targets"))
    mask = padding_mask(targets[1:, :, None], batch["target_lengths"] - 1)
    return tokens, lengths, targets, mask * batch["weights"][None]

  def init(key, batch):
    return model.init(key, *select_inputs(batch))["params"]

  def loss_metrics(params, batch, *model_args, coverage_weight=0.0):
    tokens, *other_inputs = select_inputs(batch)
    weights = other_inputs[-1]
    total, α = _promote_to_float32(
      model.apply({"params": params}, _cast_inputs(params, tokens), *other_inputs, *model_args)
    )
    if coverage_weight:
      total += coverage_weight * jnp.sum(weights * coverage_loss(α))
    return {"loss": metrics.Mean(total, weights.sum())}

  def loss(params, carry, batch, key):
    return carry, loss_metrics(params, batch, label_smoothing, key, coverage_weight=coverage_weight)

  def score(params, carry, batch):
    tokens, lengths, targets, weights = select_inputs(batch)
    inputs = _cast_inputs(params, tokens), lengths, targets[:-1]
    predictions = model.apply({"params": params}, *inputs, method="predict_tokens")
    accuracy = metrics.weighted_mean(predictions == targets[1:], weights)
    return carry, loss_metrics(params, batch) | {"accuracy": accuracy}

  return Task(init, loss, score)


def language_modeling_task(
  model: Any, activation_reg: float = 0.0, temporal_reg: float = 0.0, state_reset_prob: float = 0.0
) -> Task:
  """Return a task that predicts each token of a text from the tokens before it.

  A batch is {"tokens": [T + 1, B], "weights": [T, B]}: a window of B columns of a text, with a
  weight for each pair of consecutive tokens wₜ, wₜ₊₁. The next batch continues the text. The carry
  of the encoder is passed to the next batch without its gradient: truncated backpropagation through
  time (Williams & Peng 1990). The loss is in nats per token. Training adds the penalties α Σ
  drop(h)²/H and β Σ (hₜ − hₜ₋₁)²/H (Merity, McCann & Socher 2017).

  Args:
    model: a `LanguageModel`.
    activation_reg: α, the weight of the activation penalty.
    temporal_reg: β, the weight of the temporal penalty.
    state_reset_prob: the probability that a column starts a training window from the initial carry.
      Without resets, only the first window starts from the initial carry. A trainable initial
      carry is then not trained, and an LSTM can get stuck in text generated from the initial carry.
  """

  def apply(params, carry, batch, key=None):
    return model.apply({"params": params}, batch["tokens"], batch["weights"], carry, key)

  def init(key, batch):
    return model.init(key, batch["tokens"], batch["weights"])["params"]

  def initial_carry(params, batch):
    return model.apply({"params": params}, batch["tokens"][:0], method="logits")[0]

  def loss(params, carry, batch, key):
    if key is not None and state_reset_prob:
      key, reset_key = jax.random.split(key)
      keep = jax.random.bernoulli(reset_key, 1 - state_reset_prob, batch["tokens"].shape[1:])
      first = initial_carry(params, batch)
      carry = jax.tree.map(lambda c, new: jnp.where(keep[:, None], c, new), carry, first)
    carry, total, *outputs = apply(params, carry, batch, key)
    hs, dropped_hs = _promote_to_float32(outputs)
    penalty = 0.0
    if activation_reg:
      penalty += activation_reg * losses.activation_penalty(dropped_hs).sum()
    if temporal_reg:
      penalty += temporal_reg * losses.temporal_penalty(hs).sum()
    weight = batch["weights"].sum()
    nats = metrics.Mean(total, weight)
    return carry, {"loss": metrics.Mean(total + penalty, weight), "nats": nats}

  def score(params, carry, batch):
    carry, total, *_ = apply(params, carry, batch)
    return carry, {"loss": metrics.Mean(total, batch["weights"].sum())}

  def predict(params, batch):
    inputs = batch["tokens"], batch.get("carry")
    carry, _, logits = model.apply({"params": params}, *inputs, method="logits")
    return {"log_p": jax.nn.log_softmax(_promote_to_float32(logits)), "carry": carry}

  return Task(init, loss, score, initial_carry, predict)

"""Neural cache: interpolation of a language model with a cache of recent hidden states.

Grave, Joulin & Usunier (2017), "Improving Neural Language Models with a Continuous Cache".
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.training import metrics
from rnnjax.training.tasks import Task, language_modeling_task


def neural_cache_task(
  model: Any, cache_size: int, cache_theta: float = 0.3, cache_lambda: float = 0.1
) -> Task:
  """Return a language modeling task whose `score` uses a cache of hidden states.

      p_cache(w) ∝ Σᵢ 1[wᵢ₊₁ = w] exp(θ hₜ·hᵢ)           t − cache_size ≤ i < t
      p(w) = (1 − λ) p_model(w) + λ p_cache(w)            p = p_model if the cache is empty

  The cache has no parameters and needs no training.

  Args:
    model: a `LanguageModel`.
    cache_size: number of steps in the cache.
    cache_theta: θ, the inverse temperature of p_cache; larger values make p_cache sharper.
    cache_lambda: λ, the weight of p_cache.

  Raises:
    ValueError: `cache_size` is less than 1.
  """
  if cache_size < 1:
    raise ValueError(f"cache_size must be at least 1; got {cache_size}")
  task = language_modeling_task(model)

  def initial_carry(params, batch):
    B, H = batch["weights"].shape[1], model.encoder.features
    keys, words = jnp.zeros((B, cache_size, H)), -jnp.ones((B, cache_size), int)  # -1: empty entry
    return task.initial_carry(params, batch), keys, words

  def score(params, carry, batch):
    model_carry, keys, words = carry
    targets, T = batch["tokens"][1:].T, len(batch["weights"])
    model_carry, hs, logits = model.apply(
      {"params": params}, batch["tokens"][:-1], model_carry, method="logits"
    )
    hs = jnp.swapaxes(hs, 0, 1)
    keys, words = jnp.concatenate((keys, hs), 1), jnp.concatenate((words, targets), 1)

    # Step t attends to the previous `cache_size` steps, in the cache and in this window.
    position, t = jnp.arange(cache_size + T)[None], jnp.arange(T)[:, None]
    in_cache = (t <= position) & (position < cache_size + t)
    mask = in_cache[None] & (words >= 0)[:, None]
    scores = jnp.where(mask, cache_theta * jnp.einsum("bth,bnh->btn", hs, keys), -jnp.inf)
    attention = jnp.where(mask, jnp.exp(scores - scores.max(-1, keepdims=True)), 0)
    is_target = words[:, None] == targets[..., None]
    normalizer = attention.sum(-1)
    p_cache = (attention * is_target).sum(-1) / jnp.where(normalizer > 0, normalizer, 1)

    log_p = jax.nn.log_softmax(jnp.swapaxes(logits, 0, 1))
    log_p = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    λ = jnp.where(normalizer > 0, cache_lambda, 0)
    # The sum is computed in the log domain, because p_model may underflow.
    nats = -jnp.logaddexp(jnp.log1p(-λ) + log_p, jnp.log(λ * p_cache))
    loss = metrics.weighted_mean(nats, batch["weights"].T)
    return (model_carry, keys[:, -cache_size:], words[:, -cache_size:]), {"loss": loss}

  return task._replace(initial_carry=initial_carry, score=score)

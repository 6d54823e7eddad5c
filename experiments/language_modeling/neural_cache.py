"""A memory of the recent past beside a language model: Grave, Joulin & Usunier 2017."""

from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.training import metrics
from rnnjax.training.tasks import Task, language_modeling_task


def neural_cache_task(
  model: Any, cache_size: int, cache_theta: float = 0.3, cache_lambda: float = 0.1
) -> Task:
  """The task of `language`, scored with a cache of the last hidden states; nothing is learnt.

      p_cache(w) ∝ Σᵢ 1[wᵢ₊₁ = w] exp(θ hₜ·hᵢ)           i < t, the last `size` steps
      p(w) = (1 − λ) p_model(w) + λ p_cache(w)            p_model alone where the cache is empty

  Args:
    model: a LanguageModel.
    size: steps that are remembered.
    flatness: θ.
    share: λ.

  Raises:
    ValueError: a size below 1.
  """
  if cache_size < 1:
    raise ValueError(f"the cache must remember at least 1 step; got {cache_size}")
  task = language_modeling_task(model)

  def read(params, tokens, carry=None):
    return model.apply({"params": params}, tokens, carry, method="logits")

  def start(params, batch):
    B, H = batch["weights"].shape[1], model.encoder.features
    return (
      task.initial_carry(params, batch),
      jnp.zeros((B, cache_size, H)),
      -jnp.ones((B, cache_size), int),
    )

  def score(params, carry, batch):
    inner, keys, words = carry
    targets, T = batch["tokens"][1:].T, len(batch["weights"])
    inner, hs, logits = read(params, batch["tokens"][:-1], inner)
    hs = jnp.swapaxes(hs, 0, 1)
    keys, words = (jnp.concatenate(pair, 1) for pair in ((keys, hs), (words, targets)))

    # Step t sees the `size` steps before it, of the cache and of this window.
    at, t = jnp.arange(cache_size + T)[None], jnp.arange(T)[:, None]
    seen = ((t <= at) & (at < cache_size + t))[None] & (words >= 0)[:, None]
    scores = jnp.where(seen, cache_theta * jnp.einsum("bth,bnh->btn", hs, keys), -jnp.inf)
    attention = jnp.where(seen, jnp.exp(scores - scores.max(-1, keepdims=True)), 0)
    hit = words[:, None] == targets[..., None]
    mass = attention.sum(-1)
    p_cache = (attention * hit).sum(-1) / jnp.where(mass > 0, mass, 1)

    log_p = jax.nn.log_softmax(jnp.swapaxes(logits, 0, 1))
    log_p = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    λ = jnp.where(mass > 0, cache_lambda, 0)
    nats = -jnp.logaddexp(jnp.log1p(-λ) + log_p, jnp.log(λ * p_cache))
    scores = {"loss": metrics.weighted_mean(nats, batch["weights"].T)}
    return (inner, keys[:, -cache_size:], words[:, -cache_size:]), scores

  return task._replace(initial_carry=start, score=score)

"""Per-example and per-step losses. Tasks compute their weighted sums."""

import jax
import jax.numpy as jnp
import optax

from rnnjax.types import Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
  """Return the cross entropy in nats.

      −Σₖ qₖ log softmax(z)ₖ,   q = (1 − label_smoothing) onehot(label) + label_smoothing / K

  A single logit z represents two classes (K = 2): z = log(p(1) / p(0)).

  Args:
    logits: [..., K], or [..., 1] for two classes.
    labels: [...], integers below K (0 or 1 for a single logit).
    label_smoothing: the probability mass that is spread over all classes (Szegedy et al. 2016).

  Returns:
    The cross entropy [...].
  """
  if logits.shape[-1] == 1:
    q = labels * (1 - label_smoothing) + label_smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits[..., 0], q)
  q = optax.smooth_labels(
    jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing
  )
  return optax.softmax_cross_entropy(logits, q)


def activation_penalty(hs: Array) -> Array:
  """Return the activation regularization Σ h²/H of each step (Merity, McCann & Socher 2017).

  Args:
    hs: hidden states [..., H].

  Returns:
    The penalty [...].
  """
  return jnp.square(hs).mean(-1)


def temporal_penalty(hs: Array) -> Array:
  """Return the temporal activation regularization: the change between consecutive steps.

      Σ (hₜ₊₁ − hₜ)²/H

  Merity, McCann & Socher 2017.

  Args:
    hs: hidden states [T, ..., H].

  Returns:
    The penalty [T − 1, ...].
  """
  return jnp.square(hs[1:] - hs[:-1]).mean(-1)


def class_probabilities(logits: Array) -> Array:
  """Convert logits [..., K] to class probabilities [..., K], or logits [..., 1] to [..., 2]."""
  if logits.shape[-1] == 1:
    return jax.nn.sigmoid(jnp.concatenate([-logits, logits], -1))
  return jax.nn.softmax(logits, -1)


def predict_labels(logits: Array) -> Array:
  """Return the most probable class [...] of logits [..., K] or [..., 1]."""
  if logits.shape[-1] == 1:
    return (logits[..., 0] > 0).astype(jnp.int32)
  return jnp.argmax(logits, -1)

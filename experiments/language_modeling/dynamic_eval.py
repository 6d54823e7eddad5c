"""Dynamic evaluation: after predicting each window of the text, train the model on the window.

Mikolov et al. (2010); Krause et al. (2018).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnjax.training.tasks import Task, language_modeling_task


def dynamic_eval_task(
  model: Any, optimizer: optax.GradientTransformation, decay: float = 0.0
) -> Task:
  """Return a language modeling task whose `score` adapts the parameters between windows.

      θ₀ = θ;   predict window n with θₙ;   θₙ₊₁ = θₙ + optimizer.update(∇lossₙ(θₙ)) + λ (θ − θₙ)

  The parameters are adapted to a window only after the window is predicted. The batch size must be
  1. A larger batch contains several parts of the text, so the parameters would be adapted to later
  text before they predict earlier text.

  Args:
    model: a `LanguageModel`.
    optimizer: an optimizer with a small learning rate.
    decay: λ, the fraction of the distance θ − θₙ by which each update moves θₙ back towards θ.
  """
  task = language_modeling_task(model)

  def initial_carry(params, batch):
    return task.initial_carry(params, batch), params, optimizer.init(params)

  def score(params, carry, batch):
    model_carry, adapted_params, optimizer_state = carry

    def total_loss(adapted_params):
      next_carry, scores = task.score(adapted_params, model_carry, batch)
      return scores["loss"].total, (next_carry, scores)

    grads, (model_carry, scores) = jax.grad(total_loss, has_aux=True)(adapted_params)
    # Mean gradient over the window; the maximum avoids division by 0 for a window of weight 0.
    grads = jax.tree.map(lambda g: g / jnp.maximum(scores["loss"].weight, 1), grads)
    updates, optimizer_state = optimizer.update(grads, optimizer_state, adapted_params)

    def adapt(adapted_param, update, param):
      return adapted_param + update + decay * (param - adapted_param)

    adapted_params = jax.tree.map(adapt, adapted_params, updates, params)
    return (model_carry, adapted_params, optimizer_state), scores

  return task._replace(initial_carry=initial_carry, score=score)

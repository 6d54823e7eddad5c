"""Dynamic evaluation: the parameters go on learning from the text that was just predicted.

Mikolov et al. 2010; Krause et al. 2018.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnjax.training.tasks import Task, language_modeling_task


def dynamic_eval_task(
  model: Any, optimizer: optax.GradientTransformation, decay: float = 0.0
) -> Task:
  """The task of `language`, scored window by window with parameters that adapt in between.

      θ₀ = θ;   predict window n with θₙ;   θₙ₊₁ = θₙ − optimizer(∇lossₙ(θₙ)) + λ (θ − θₙ)

  Each window is predicted before it is learnt from. The text must be a single column: of several,
  one would learn from what comes later in another's text.

  Args:
    model: a LanguageModel.
    optimizer: with a small rate.
    decay: λ, how fast what was learnt is forgotten.
  """
  task = language_modeling_task(model)

  def start(params, batch):
    return task.initial_carry(params, batch), params, optimizer.init(params)

  def score(params, carry, batch):
    inner, adapted, state = carry

    def total(adapted):
      after, scores = task.score(adapted, inner, batch)
      return scores["loss"].total, (after, scores)

    grads, (inner, scores) = jax.grad(total, has_aux=True)(adapted)
    grads = jax.tree.map(lambda g: g / jnp.maximum(scores["loss"].weight, 1), grads)
    updates, state = optimizer.update(grads, state, adapted)
    move = lambda a, u, p: a + u + decay * (p - a)
    return (inner, jax.tree.map(move, adapted, updates, params), state), scores

  return task._replace(initial_carry=start, score=score)

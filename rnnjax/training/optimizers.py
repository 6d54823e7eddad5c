"""Optimizers and learning-rate schedules, composed from optax."""

import jax
import optax

SCHEDULES = ("constant", "linear", "cosine")


def make_schedule(
  learning_rate: float, num_steps: int, name: str = "linear", warmup_fraction: float = 0.0
) -> optax.Schedule:
  """Return a learning-rate schedule with linear warm-up.

  Args:
    learning_rate: the peak learning rate.
    num_steps: number of training steps, after which the learning rate is 0 (except with
      "constant").
    name: the decay after the warm-up, one of SCHEDULES.
    warmup_fraction: the fraction of steps in which the learning rate rises linearly from 0.

  Returns:
    step -> learning rate.

  Raises:
    ValueError: `name` is not one of SCHEDULES.
  """
  if name not in SCHEDULES:
    raise ValueError(f"schedule must be one of {SCHEDULES}; got {name!r}")
  warmup_steps = round(warmup_fraction * num_steps)
  decay_steps = max(num_steps - warmup_steps, 1)
  decay = {
    "constant": optax.constant_schedule(learning_rate),
    "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
    "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
  }[name]
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, decay], [warmup_steps])


def adam(
  learning_rate: optax.ScalarOrSchedule,
  *,
  max_grad_norm: float = 1.0,
  weight_decay: float = 0.0,
  b2: float = 0.999,
) -> optax.GradientTransformation:
  """Return the AdamW optimizer with gradient clipping.

      g ← g · min(1, max_grad_norm / ‖g‖)
      θ ← θ − learning_rate (m̂ / (√v̂ + ε) + weight_decay θ)

  Kingma & Ba 2015; decoupled weight decay: Loshchilov & Hutter 2019.

  Args:
    learning_rate: a number or a schedule.
    max_grad_norm: the global norm above which gradients are scaled down; infinity for no clipping.
    weight_decay: the decay of matrices. Vectors, such as biases, are not decayed.
    b2: the decay of the second moment.
  """

  def is_matrix(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)

  return optax.chain(
    optax.clip_by_global_norm(max_grad_norm),
    optax.scale_by_adam(b2=b2),
    # Weight decay must precede scale_by_learning_rate, which flips the sign: else weights grow.
    optax.add_decayed_weights(weight_decay, is_matrix) if weight_decay else optax.identity(),
    optax.scale_by_learning_rate(learning_rate),
  )

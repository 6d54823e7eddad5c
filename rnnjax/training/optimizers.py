"""Optimizers: optax's parts in the right order."""

import jax
import optax

SCHEDULES = ("constant", "linear", "cosine")


def make_schedule(
  learning_rate: float, num_steps: int, name: str = "linear", warmup_fraction: float = 0.0
) -> optax.Schedule:
  """The learning rate at each step.

  Args:
    rate: its peak.
    steps: of the whole training, after which it has come to 0 (except "constant").
    name: "constant", "linear" or "cosine" decay.
    warmup: the share of steps in which it rises linearly from 0.
  """
  if name not in SCHEDULES:
    raise ValueError(f"schedule must be one of {SCHEDULES}; got {name!r}")
  rise = round(warmup_fraction * num_steps)
  rest = max(num_steps - rise, 1)
  after = {
    "constant": optax.constant_schedule(learning_rate),
    "linear": optax.linear_schedule(learning_rate, 0.0, rest),
    "cosine": optax.cosine_decay_schedule(learning_rate, rest),
  }[name]
  return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rise), after], [rise])


def adam(
  learning_rate: optax.ScalarOrSchedule,
  *,
  max_grad_norm: float = 1.0,
  weight_decay: float = 0.0,
  b2: float = 0.999,
) -> optax.GradientTransformation:
  """AdamW: Kingma & Ba 2015, with the decoupled decay of Loshchilov & Hutter 2019.

      g ← g · min(1, clip/‖g‖);   θ ← θ − rate (m̂/(√v̂ + ε) + decay θ)

  Decay acts on matrices only, and stands before the rate and its sign, so that weights shrink.
  """
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.chain(
    optax.clip_by_global_norm(max_grad_norm),
    optax.scale_by_adam(b2=b2),
    optax.add_decayed_weights(weight_decay, matrices) if weight_decay else optax.identity(),
    optax.scale_by_learning_rate(learning_rate),
  )

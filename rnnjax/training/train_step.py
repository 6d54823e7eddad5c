"""The train step, the training loop as a generator, and evaluation."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rnnjax.training import device_mesh, distributed, metrics, sharding
from rnnjax.training.averaging import AveragingSchedule, ema
from rnnjax.training.grad_accumulation import compute_gradients
from rnnjax.training.metrics import Mean
from rnnjax.training.tasks import Task
from rnnjax.types import Array, Carry, Key, Params, flatten_with_names


class TrainState(NamedTuple):
  """The state of training: all inputs of a train step except the batch.

  Attributes:
    step: the number of steps taken.
    params: the parameters.
    averaged_params: the average of the parameters over steps; None if no average is kept.
    opt_state: the state of the optimizer.
    carry: the carry that the last batch passes to the next.
    key: the random key; each step uses `fold_in(key, step)`.
  """

  step: Array
  params: Params
  averaged_params: Params | None
  opt_state: Any
  carry: Carry
  key: Key

  @property
  def eval_params(self) -> Params:
    """The parameters for evaluation: the average if there is one."""
    return self.params if self.averaged_params is None else self.averaged_params


def init_state(
  task: Task, optimizer: optax.GradientTransformation, batch, key: Key, keep_average: bool = False
) -> TrainState:
  """Return the training state before the first step.

  Args:
    task: the task.
    optimizer: the optimizer.
    batch: an example batch; only its shapes and dtypes matter.
    key: the random key of the initialization and of training.
    keep_average: whether the state contains an average of the parameters.
  """
  init_key, train_key = jax.random.split(key)
  params = jax.jit(task.init)(init_key, batch)
  averaged_params = jax.tree.map(jnp.copy, params) if keep_average else None
  opt_state, carry = jax.jit(optimizer.init)(params), task.initial_carry(params, batch)
  return TrainState(jnp.int32(0), params, averaged_params, opt_state, carry, train_key)


class StepOptions(NamedTuple):
  """The static arguments of the compiled step.

  Attributes:
    task: the task.
    optimizer: the optimizer.
    averaging: step -> μ, the weight of the newest parameters in the average; ignored if no average
      is kept.
    log_gradients: whether to add the metrics "gradient/NAME", the norm of the gradient of each
      parameter.
    grad_accum_steps: as for `compute_gradients`.
    dtype: as for `compute_gradients`.
  """

  task: Task
  optimizer: optax.GradientTransformation
  averaging: AveragingSchedule = ema(0.99)
  log_gradients: bool = False
  grad_accum_steps: int = 1
  dtype: str = "float32"


class DivergedError(FloatingPointError):
  """Raised when a training step has a non-finite loss, gradient or parameter.

  Attributes:
    train_state: the last finite state, before that step.
  """

  def __init__(self, message: str, train_state: TrainState):
    super().__init__(message)
    self.train_state = train_state


def train_loop(
  task: Task,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batches: Iterable,
  *,
  mesh: Mesh | None = None,
  **options,
) -> Iterator[tuple[TrainState, dict[str, Mean]]]:
  """Take one training step per batch; yield the state and the metrics of each step.

      θ ← θ − optimizer(∇loss(θ));   θ̄ ← (1 − μₜ) θ̄ + μₜ θ

  The arrays of a yielded state are donated to the next step, which overwrites them. Copy arrays
  that are needed later. The argument `state` is not overwritten.

  Args:
    task: the task.
    optimizer: the optimizer.
    state: the state to start from, e.g. as returned by `init_state`.
    batches: one batch per step. In multi-host runs each host passes its own rows.
    mesh: the devices; None for all.
    **options: fields of `StepOptions`.

  Yields:
    The state after the step, and its metrics {name: Mean} as NumPy arrays.

  Raises:
    DivergedError: the loss, a gradient or an updated parameter is not finite.
  """
  mesh = mesh or device_mesh.make_mesh()
  step_options = StepOptions(sharding.with_explicit_sharding(task, mesh), optimizer, **options)
  state = jax.tree.map(jnp.copy, shard_state(mesh, state))  # donated below
  for batch in batches:
    with jax.set_mesh(mesh):
      state, *outputs = _train_step(step_options, state, sharding.shard_batch(mesh, batch))
    # device_get waits for the step. Meanwhile a thread reads the next batch; see `prefetch`.
    step_metrics, is_finite = jax.device_get(outputs)
    _raise_if_nonfinite(state, is_finite)
    yield state, step_metrics


def shard_state(mesh: Mesh, state: TrainState) -> TrainState:
  """Place a state on a mesh. The carry is sharded by rows, all other arrays by `param_spec`."""
  carry = sharding.shard_carry(mesh, state.carry)
  return sharding.shard_params(mesh, state._replace(carry=()))._replace(carry=carry)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_step(options, state, batch):
  """Take a step; return the new state, the metrics, and flags for `_raise_if_nonfinite`."""
  key = jax.random.fold_in(state.key, state.step)
  grads, carry, step_metrics = compute_gradients(
    options.task, state.params, state.carry, batch, key, options.grad_accum_steps, options.dtype
  )
  if options.log_gradients:
    step_metrics |= {
      f"gradient/{n}": Mean(jnp.linalg.norm(g), 1.0) for n, g in flatten_with_names(grads).items()
    }
  updates, opt_state = options.optimizer.update(grads, state.opt_state, state.params)
  params, averaged_params = optax.apply_updates(state.params, updates), state.averaged_params
  if averaged_params is not None:
    μ = options.averaging(state.step)
    averaged_params = jax.tree.map(lambda a, p: (1 - μ) * a + μ * p, averaged_params, params)
  # A step with non-finite values is skipped: the last finite state is kept and can be saved.
  checked = step_metrics["loss"].total, *jax.tree.leaves(grads), *jax.tree.leaves(params)
  is_finite = jnp.stack([jnp.isfinite(a).all() for a in checked])
  all_finite = is_finite.all()

  def select(new, old):
    return jax.tree.map(lambda a, b: jnp.where(all_finite, a, b), new, old)

  new, old = (state.step + 1, params, averaged_params, opt_state), state[:4]
  selected = sharding.constrain_params(select(new, old))
  new_state = TrainState(*selected, select(carry, state.carry), state.key)
  return new_state, step_metrics, is_finite


def _raise_if_nonfinite(state: TrainState, is_finite: np.ndarray):
  """Raise DivergedError if a value is not finite. The message names the first non-finite values.

  Args:
    state: the state after the step, or before the step if a value is not finite.
    is_finite: booleans: whether the loss, each gradient and each parameter are finite.
  """
  if is_finite.all():
    return
  params = [*flatten_with_names(state.params)]
  names = ["the loss", *(f"the gradient of {name}" for name in params), *params]
  bad = [name for name, good in zip(names, is_finite, strict=True) if not good]
  others = f" and {len(bad) - 2} more" if len(bad) > 2 else ""
  raise DivergedError(
    f"step {int(state.step) + 1} is skipped because it would not be finite: "
    f"{', '.join(bad[:2])}{others}. The state before it is kept. Try a smaller --learning_rate",
    state,
  )


@functools.partial(jax.jit, static_argnums=0)
def _eval_step(task, params, carry, batch):
  return task.score(params, carry, batch)


def evaluate(task: Task, params: Params, batches: Iterable, mesh: Mesh | None = None):
  """Return the scores {name: float} of a task over all batches.

  Args:
    task: the task.
    params: its parameters.
    batches: batches in order; each batch passes its carry to the next. If `batches` has a method
      `select_rows`, each host reads only its own rows.
    mesh: the devices; None for all.
  """
  mesh = mesh or device_mesh.make_mesh()
  task, params = sharding.with_explicit_sharding(task, mesh), sharding.replicate(mesh, params)
  totals: dict[str, Mean] = {}
  carry = None
  for batch in distributed.shard_batches_by_host(mesh, batches):
    batch = sharding.shard_batch(mesh, batch)
    if carry is None:
      carry = sharding.shard_carry(mesh, task.initial_carry(params, batch))
    with jax.set_mesh(mesh):
      carry, scores = _eval_step(task, params, carry, batch)
    totals = metrics.merge_metrics(totals, scores)
  return {name: mean.value for name, mean in totals.items()}

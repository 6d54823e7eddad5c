"""Training as a generator: `for state, metrics in train(...)`, and what one wants to see inside."""

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
  """All that the next step depends on, besides the data.

  Attributes:
    step: how many steps were taken.
    params: the parameters.
    average: their moving average, or None where nothing is averaged.
    optimizer: the optimizer's state.
    carry: what the last batch leaves to the next.
    key: the key from which each step's own is folded.
  """

  step: Array
  params: Params
  averaged_params: Params | None
  opt_state: Any
  carry: Carry
  key: Key

  @property
  def eval_params(self) -> Params:
    """The parameters with which one evaluates: the average, where there is one."""
    return self.params if self.averaged_params is None else self.averaged_params


def init_state(
  task: Task, optimizer: optax.GradientTransformation, batch, key: Key, keep_average: bool = False
) -> TrainState:
  """The state before the first step; `batch` only shows the shapes."""
  init, rest = jax.random.split(key)
  params = jax.jit(task.init)(init, batch)
  mean = jax.tree.map(jnp.copy, params) if keep_average else None
  inner, carry = jax.jit(optimizer.init)(params), task.initial_carry(params, batch)
  return TrainState(jnp.int32(0), params, mean, inner, carry, rest)


class StepOptions(NamedTuple):
  """What a step is compiled for.

  Attributes:
    task: what is learnt.
    optimizer: how.
    average: μ, how the average of a state that keeps one is taken.
    diagnose: among the metrics are "gradient/NAME", the norm of each parameter's gradient.
    accumulate, precision: as for `gradients.gradient`.
  """

  task: Task
  optimizer: optax.GradientTransformation
  averaging: AveragingSchedule = ema(0.99)
  log_gradients: bool = False
  grad_accum_steps: int = 1
  dtype: str = "float32"


class DivergedError(FloatingPointError):
  """A step would not be finite, and was not taken; `state` is that before it, and good."""

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
  """Takes a step for each batch, and yields the state and the step's metrics, as NumPy's.

      θ ← θ − optimizer(∇loss(θ));   θ̄ ← (1 − μₜ) θ̄ + μₜ θ

  A state lives until the next is asked for, which overwrites its arrays: copy what you keep.

  Args:
    task: what is learnt.
    optimizer: how.
    state: from where; `start` makes the first.
    batches: the data, one step each; on many hosts, each gives its own rows.
    mesh: the devices; all of them where None.
    **how: as for `How`.

  Raises:
    Diverged: the loss, a gradient or a parameter would not be finite.
  """
  mesh = mesh or device_mesh.make_mesh()
  options = StepOptions(sharding.with_explicit_sharding(task, mesh), optimizer, **options)
  state = jax.tree.map(jnp.copy, shard_state(mesh, state))  # the caller keeps his own
  for batch in batches:
    with jax.set_mesh(mesh):
      state, *seen = _train_step(options, state, sharding.shard_batch(mesh, batch))
    found, finite = jax.device_get(seen)  # waits for the step, while the next batch is read
    _raise_if_nonfinite(state, finite)
    yield state, found


def shard_state(mesh: Mesh, state: TrainState) -> TrainState:
  """The state on a mesh: rows of the carry cut, parameters as `placement.part` says."""
  carry = sharding.shard_carry(mesh, state.carry)
  return sharding.shard_params(mesh, state._replace(carry=()))._replace(carry=carry)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_step(options, state, batch):
  key = jax.random.fold_in(state.key, state.step)
  grads, carry, found = compute_gradients(
    options.task, state.params, state.carry, batch, key, options.grad_accum_steps, options.dtype
  )
  if options.log_gradients:
    found |= {
      f"gradient/{n}": Mean(jnp.linalg.norm(g), 1.0) for n, g in flatten_with_names(grads).items()
    }
  updates, inner = options.optimizer.update(grads, state.opt_state, state.params)
  params, mean = optax.apply_updates(state.params, updates), state.averaged_params
  if mean is not None:
    μ = options.averaging(state.step)
    mean = jax.tree.map(lambda a, p: (1 - μ) * a + μ * p, mean, params)
  # What is not finite takes no step: the last good state stays.
  causes = found["loss"].total, *jax.tree.leaves(grads), *jax.tree.leaves(params)
  finite = jnp.stack([jnp.isfinite(a).all() for a in causes])
  good = finite.all()
  select = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
  new, old = (state.step + 1, params, mean, inner), state[:4]
  step, *kept = sharding.constrain_params(select(new, old))
  return TrainState(step, *kept, select(carry, state.carry), state.key), found, finite


def _raise_if_nonfinite(state: TrainState, finite: np.ndarray):
  """Raises Diverged where something is not finite, and names what first is not."""
  if not finite.all():
    names = [*flatten_with_names(state.params)]
    names = ["the loss", *(f"the gradient of {name}" for name in names), *names]
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    raise DivergedError(
      f"step {int(state.step) + 1} is not taken, as it would not be finite: {', '.join(bad[:2])}"
      f"{f' and {len(bad) - 2} more' if len(bad) > 2 else ''}. The state before it is kept. A "
      "smaller --learning_rate is the usual cure",
      state,
    )


@functools.partial(jax.jit, static_argnums=0)
def _eval_step(task, params, carry, batch):
  return task.score(params, carry, batch)


def evaluate(task: Task, params: Params, batches: Iterable, mesh: Mesh | None = None):
  """The task's scores {name: float} over all batches; of those that can be shared, each host reads
  its own rows."""
  mesh = mesh or device_mesh.make_mesh()
  task, params = sharding.with_explicit_sharding(task, mesh), sharding.replicate(mesh, params)
  total: dict[str, Mean] = {}
  carry = None
  for batch in distributed.shard_batches_by_host(mesh, batches):
    batch = sharding.shard_batch(mesh, batch)
    if carry is None:
      carry = sharding.shard_carry(mesh, task.initial_carry(params, batch))
    with jax.set_mesh(mesh):
      carry, scores = _eval_step(task, params, carry, batch)
    total = metrics.merge_metrics(total, scores)
  return {name: mean.value for name, mean in total.items()}

"""Training as a generator: `for state, metrics in train(...)`, and what one wants to see inside."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rnnjax.metrics import Mean
from rnnjax.tasks import Task
from rnnjax.training import devices
from rnnjax.types import Array, Key, Params


class State(NamedTuple):
  """All that the next step depends on, besides the data.

  Attributes:
    step: how many steps were taken.
    params: the parameters.
    average: their moving average, or None where nothing is averaged.
    optimizer: the optimizer's state.
    key: the key from which each step's own is folded.
  """

  step: Array
  params: Params
  average: Params | None
  optimizer: Any
  key: Key

  @property
  def evaluated(self) -> Params:
    """The parameters with which one evaluates: the average, where there is one."""
    return self.params if self.average is None else self.average


def start(
  task: Task, optimizer: optax.GradientTransformation, batch, key: Key, average: bool = False
) -> State:
  """The state before the first step; `batch` only shows the shapes."""
  init, rest = jax.random.split(key)
  params = jax.jit(task.init)(init, batch)
  mean = jax.tree.map(jnp.copy, params) if average else None
  return State(jnp.int32(0), params, mean, jax.jit(optimizer.init)(params), rest)


def train(
  task: Task,
  optimizer: optax.GradientTransformation,
  state: State,
  batches: Iterable,
  *,
  average: float = 0.99,
  mesh: Mesh | None = None,
) -> Iterator[tuple[State, dict[str, Mean]]]:
  """Takes a step for each batch, and yields the state and the step's metrics.

      θ ← θ − optimizer(∇loss(θ));   θ̄ ← d θ̄ + (1 − d) θ,  d = min(average, (1 + t)/(10 + t))

  A state lives until the next is asked for, which overwrites its arrays: copy what you keep.

  Args:
    task: what is learnt.
    optimizer: how.
    state: from where; `start` makes the first.
    batches: the data, one step each.
    average: d, the decay of the moving average (Polyak & Juditsky 1992) of a state that keeps one.
    mesh: the devices; all of them where None.
  """
  mesh = mesh or devices.mesh()
  state = jax.tree.map(jnp.copy, devices.replicate(mesh, state))  # the caller keeps his own
  for batch in batches:
    with jax.set_mesh(mesh):
      state, metrics = _update(task, optimizer, average, state, devices.shard(mesh, batch))
    yield state, metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _update(task, optimizer, average, state, batch):
  key = jax.random.fold_in(state.key, state.step)

  def total(params):
    metrics = task.loss(params, batch, key)
    return metrics["loss"].total, metrics

  # The weight divides at the end, so that devices meet once, when all is summed.
  grads, metrics = jax.grad(total, has_aux=True)(state.params)
  grads = jax.tree.map(lambda g: g / metrics["loss"].weight, grads)
  updates, inner = optimizer.update(grads, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  mean = state.average
  if mean is not None:
    d = jnp.minimum(average, (1 + state.step) / (10 + state.step))
    mean = jax.tree.map(lambda a, p: d * a + (1 - d) * p, mean, params)
  return State(state.step + 1, params, mean, inner, state.key), metrics


@functools.partial(jax.jit, static_argnums=0)
def _score(task, params, batch):
  return task.score(params, batch)


def evaluate(task: Task, params: Params, batches: Iterable, mesh: Mesh | None = None):
  """The task's scores {name: float} over all batches."""
  mesh = mesh or devices.mesh()
  params = devices.replicate(mesh, params)
  total: dict[str, Mean] = {}
  for batch in batches:
    with jax.set_mesh(mesh):
      scores = jax.device_get(_score(task, params, devices.shard(mesh, batch)))
    total = {name: scores[name] + total.get(name, Mean(0.0, 0.0)) for name in scores}
  return {name: mean.value for name, mean in total.items()}

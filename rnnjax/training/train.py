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
from rnnjax.training.averages import Average, moving
from rnnjax.types import Array, Carry, Key, Params


class State(NamedTuple):
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
  average: Params | None
  optimizer: Any
  carry: Carry
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
  inner, carry = jax.jit(optimizer.init)(params), task.start(params, batch)
  return State(jnp.int32(0), params, mean, inner, carry, rest)


def train(
  task: Task,
  optimizer: optax.GradientTransformation,
  state: State,
  batches: Iterable,
  *,
  average: Average = moving(0.99),
  mesh: Mesh | None = None,
  diagnose: bool = False,
) -> Iterator[tuple[State, dict[str, Mean]]]:
  """Takes a step for each batch, and yields the state and the step's metrics.

      θ ← θ − optimizer(∇loss(θ));   θ̄ ← (1 − μₜ) θ̄ + μₜ θ

  A state lives until the next is asked for, which overwrites its arrays: copy what you keep.

  Args:
    task: what is learnt.
    optimizer: how.
    state: from where; `start` makes the first.
    batches: the data, one step each.
    average: μ, how the average of a state that keeps one is taken.
    mesh: the devices; all of them where None.
    diagnose: among the metrics are "gradient/NAME", the norm of each parameter's gradient.
  """
  mesh = mesh or devices.mesh()
  carry = devices.rows(mesh, state.carry)
  state = devices.replicate(mesh, state._replace(carry=()))._replace(carry=carry)
  state = jax.tree.map(jnp.copy, state)  # the caller keeps his own
  for batch in batches:
    with jax.set_mesh(mesh):
      how = task, optimizer, average, diagnose
      state, metrics = _update(*how, state, devices.shard(mesh, batch))
    yield state, metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _update(task, optimizer, average, diagnose, state, batch):
  key = jax.random.fold_in(state.key, state.step)

  def total(params):
    carry, metrics = task.loss(params, state.carry, batch, key)
    return metrics["loss"].total, (carry, metrics)

  # The weight divides at the end, so that devices meet once, when all is summed.
  grads, (carry, metrics) = jax.grad(total, has_aux=True)(state.params)
  grads = jax.tree.map(lambda g: g / metrics["loss"].weight, grads)
  if diagnose:
    named, _ = jax.tree.flatten_with_path(grads)
    metrics |= {f"gradient/{_name(path)}": Mean(jnp.linalg.norm(g), 1.0) for path, g in named}
  updates, inner = optimizer.update(grads, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  mean = state.average
  if mean is not None:
    μ = average(state.step)
    mean = jax.tree.map(lambda a, p: (1 - μ) * a + μ * p, mean, params)
  return State(state.step + 1, params, mean, inner, carry, state.key), metrics


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")


@functools.partial(jax.jit, static_argnums=0)
def _score(task, params, carry, batch):
  return task.score(params, carry, batch)


def evaluate(task: Task, params: Params, batches: Iterable, mesh: Mesh | None = None):
  """The task's scores {name: float} over all batches."""
  mesh = mesh or devices.mesh()
  params = devices.replicate(mesh, params)
  total: dict[str, Mean] = {}
  carry = None
  for batch in batches:
    if carry is None:
      carry = devices.rows(mesh, task.start(params, batch))
    with jax.set_mesh(mesh):
      carry, scores = _score(task, params, carry, devices.shard(mesh, batch))
    scores = jax.device_get(scores)
    total = {name: scores[name] + total.get(name, Mean(0.0, 0.0)) for name in scores}
  return {name: mean.value for name, mean in total.items()}

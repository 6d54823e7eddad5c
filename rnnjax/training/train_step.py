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
from rnnjax.training.averaging import Average, moving
from rnnjax.training.grad_accumulation import gradient
from rnnjax.training.metrics import Mean
from rnnjax.training.tasks import Task
from rnnjax.types import Array, Carry, Key, Params, named


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


class How(NamedTuple):
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
  average: Average = moving(0.99)
  diagnose: bool = False
  accumulate: int = 1
  precision: str = "float32"


class Diverged(FloatingPointError):
  """A step would not be finite, and was not taken; `state` is that before it, and good."""

  def __init__(self, message: str, state: State):
    super().__init__(message)
    self.state = state


def train(
  task: Task,
  optimizer: optax.GradientTransformation,
  state: State,
  batches: Iterable,
  *,
  mesh: Mesh | None = None,
  **how,
) -> Iterator[tuple[State, dict[str, Mean]]]:
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
  mesh = mesh or device_mesh.mesh()
  how = How(sharding.typed(task, mesh), optimizer, **how)
  state = jax.tree.map(jnp.copy, place(mesh, state))  # the caller keeps his own
  for batch in batches:
    with jax.set_mesh(mesh):
      state, *seen = _update(how, state, sharding.shard(mesh, batch))
    found, finite = jax.device_get(seen)  # waits for the step, while the next batch is read
    _check(state, finite)
    yield state, found


def place(mesh: Mesh, state: State) -> State:
  """The state on a mesh: rows of the carry cut, parameters as `placement.part` says."""
  carry = sharding.rows(mesh, state.carry)
  return sharding.place(mesh, state._replace(carry=()))._replace(carry=carry)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _update(how, state, batch):
  key = jax.random.fold_in(state.key, state.step)
  grads, carry, found = gradient(
    how.task, state.params, state.carry, batch, key, how.accumulate, how.precision
  )
  if how.diagnose:
    found |= {f"gradient/{n}": Mean(jnp.linalg.norm(g), 1.0) for n, g in named(grads).items()}
  updates, inner = how.optimizer.update(grads, state.optimizer, state.params)
  params, mean = optax.apply_updates(state.params, updates), state.average
  if mean is not None:
    μ = how.average(state.step)
    mean = jax.tree.map(lambda a, p: (1 - μ) * a + μ * p, mean, params)
  # What is not finite takes no step: the last good state stays.
  causes = found["loss"].total, *jax.tree.leaves(grads), *jax.tree.leaves(params)
  finite = jnp.stack([jnp.isfinite(a).all() for a in causes])
  good = finite.all()
  select = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
  new, old = (state.step + 1, params, mean, inner), state[:4]
  step, *kept = sharding.keep(select(new, old))
  return State(step, *kept, select(carry, state.carry), state.key), found, finite


def _check(state: State, finite: np.ndarray):
  """Raises Diverged where something is not finite, and names what first is not."""
  if not finite.all():
    names = [*named(state.params)]
    names = ["the loss", *(f"the gradient of {name}" for name in names), *names]
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    raise Diverged(
      f"step {int(state.step) + 1} is not taken, as it would not be finite: {', '.join(bad[:2])}"
      f"{f' and {len(bad) - 2} more' if len(bad) > 2 else ''}. The state before it is kept. A "
      "smaller --rate is the usual cure",
      state,
    )


@functools.partial(jax.jit, static_argnums=0)
def _score(task, params, carry, batch):
  return task.score(params, carry, batch)


def evaluate(task: Task, params: Params, batches: Iterable, mesh: Mesh | None = None):
  """The task's scores {name: float} over all batches; of those that can be shared, each host reads
  its own rows."""
  mesh = mesh or device_mesh.mesh()
  task, params = sharding.typed(task, mesh), sharding.replicate(mesh, params)
  total: dict[str, Mean] = {}
  carry = None
  for batch in distributed.share(mesh, batches):
    batch = sharding.shard(mesh, batch)
    if carry is None:
      carry = sharding.rows(mesh, task.start(params, batch))
    with jax.set_mesh(mesh):
      carry, scores = _score(task, params, carry, batch)
    total = metrics.add(total, scores)
  return {name: mean.value for name, mean in total.items()}

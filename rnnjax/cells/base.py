"""The interface of a recurrent cell, and the builders that all cells use.

Cells come in three forms. `additive` and `linear_recurrence` build cells of a known form, which
backends accelerate. A cell of any other form defines `project` and `step` itself.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Carry, Key, Params


class Cell(NamedTuple):
  """One step of a recurrence, as pure functions.

      uₜ = project(params, xₜ)                everything that does not depend on hₜ₋₁
      carryₜ, yₜ = step(params, carryₜ₋₁, uₜ)

  `project` and `step` get all batch axes of one time step. They may mix rows, e.g. by a mean over
  the batch or a convolution over further axes.

  Attributes:
    name: printed form, e.g. lstm(256).
    features: H, the size of y and of h, which is carry[0].
    init: (key, D) -> params, a flat dict of arrays.
    initial_carry: x [..., D] -> carry, derived from x so that it has the sharding of x.
    project: (params, x [..., D]) -> u [..., GH].
    step: (params, carry, u) -> (carry, y [..., H]).
    pointwise: (params, carry, gates) -> (carry, y) of an `additive` cell, whose projection is
      x W + b; None for other cells.
    num_split_gates: number of last blocks of u and h U that an additive cell keeps separate
      instead of adding them.
    coefficients: (params, u) -> (a, b) of a `linear_recurrence`; None for other cells.
    readout: (params, s, u) -> y of a `linear_recurrence`; None for other cells.
  """

  name: str
  features: int
  init: Callable[[Key, int], Params]
  initial_carry: Callable[[Array], Carry]
  project: Callable[[Params, Array], Array]
  step: Callable[[Params, Carry, Array], tuple[Carry, Array]]
  pointwise: Callable[[Params, Carry, list[Array]], tuple[Carry, Array]] | None = None
  num_split_gates: int = 0
  coefficients: Callable[[Params, Array], tuple[Array, Array]] | None = None
  readout: Callable[[Params, Array, Array], Array] | None = None

  def __repr__(self):
    return self.name


def cell_factory(build: Callable) -> Callable:
  """Return a function that builds a cell and caches it by its arguments.

  Equal arguments return the same object, so that jit compiles once. All arguments must be hashable.
  The cell's name is its constructor call without default arguments.

  Args:
    build: (features, ...) -> dict of the cell's functions: "init", "initial_carry", and either
      "project" and "step" or the result of `additive` or `linear_recurrence`.

  Raises (when a cell is built):
    ValueError: features, the first argument, is not a positive integer; build returns other keys.
  """
  signature = inspect.signature(build)
  factory_name = build.__name__

  @functools.cache
  def build_cell(features, *arguments):
    defaults = {key: parameter.default for key, parameter in signature.parameters.items()}
    options = [f"{key}={value!r}" for key, value in arguments if value != defaults[key]]
    # Arrays that the cell's functions close over must not be tracers of an enclosing jit.
    with jax.ensure_compile_time_eval():
      functions = dict(build(features, **dict(arguments)))
    if "start" in functions:  # the short key of initial_carry
      functions["initial_carry"] = functions.pop("start")
    required = {"init", "initial_carry", "project", "step"}
    if not required <= functions.keys() <= {*Cell._fields}:
      raise ValueError(
        f"{factory_name} must return a dict with the keys {sorted(required)}, as functions of a "
        f"Cell; got {sorted(functions)}"
      )
    # `pointwise` describes the whole step only if the projection is x W + b.
    if functions["project"] is not project:
      functions["pointwise"] = None
    return Cell(f"{factory_name}({', '.join([str(features), *options])})", features, **functions)

  @functools.wraps(build)
  def factory(*args, **kwargs):
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    (_, features), *options = bound.arguments.items()
    # Checked before the cache, to which 2.0 and 2 are the same key.
    try:
      num_features = operator.index(features)
    except TypeError:
      num_features = 0
    if num_features < 1:
      raise ValueError(
        f"{factory_name} needs a positive integer as its number of features; got {features!r}"
      )
    return build_cell(num_features, *options)

  return factory


def project(params: Params, x: Array) -> Array:
  """Return the input's contribution to every gate, u = x W + b: [..., D] -> [..., GH]."""
  return x @ params["W"] + params["b"]


def preactivations(u: Array, v: Array, num_gates: int, num_split_gates: int = 0) -> list[Array]:
  """Return the gates before their nonlinearities: u + v in blocks, the last ones not added.

  u₁ + v₁, ..., uₙ + vₙ, then the last num_split_gates blocks of u, then those of v.
  """
  return add_preactivations(
    jnp.split(u, num_gates, -1), jnp.split(v, num_gates, -1), num_split_gates
  )


def add_preactivations(us: list[Array], vs: list[Array], num_split_gates: int) -> list[Array]:
  """Like `preactivations`, for lists of blocks."""
  num_added = len(us) - num_split_gates
  return [u + v for u, v in zip(us[:num_added], vs)] + us[num_added:] + vs[num_added:]


def additive(pointwise: Callable, num_gates: int, num_split_gates: int = 0) -> dict:
  """Build an additive cell: the sum of u = x W + b and h U, followed by a pointwise function.

      carryₜ, yₜ = pointwise(params, carryₜ₋₁, preactivations(uₜ, hₜ₋₁ U))

  Only h U and `pointwise` depend on the previous step. So a backend can compute x W + b and the
  gradients of W, U and b for all steps at once.

  Args:
    pointwise: (params, carry, gates) -> (carry, y); it may read all parameters except W, U and b.
    num_gates: G, the number of blocks of W, U and b.
    num_split_gates: number of last blocks of x W + b and h U that are not added.

  Returns:
    The functions "project", "step", "pointwise" and "num_split_gates" of the cell.
  """

  def step(params, carry, u):
    v = carry[0] @ params["U"]
    return pointwise(params, carry, preactivations(u, v, num_gates, num_split_gates))

  return {
    "project": project,
    "step": step,
    "pointwise": pointwise,
    "num_split_gates": num_split_gates,
  }


def linear_recurrence(
  coefficients: Callable, readout: Callable | None = None, project: Callable = project
) -> dict:
  """Build a cell whose state is linear in the previous state.

      aₜ, bₜ = coefficients(params, uₜ)            uₜ = xₜ W + b
      sₜ = aₜ ⊙ sₜ₋₁ + bₜ
      yₜ = readout(params, sₜ, uₜ)                 yₜ = sₜ if readout is None

  Neither a nor b depends on s, so all steps can run in parallel (`rnnjax.backends.associative`).
  The carry is (h, s), or (h, Re s, Im s) if s is complex, or only (h,) if s equals h in value and
  dtype. In the first two cases s is float32 or wider. `coefficients` and `readout` get inputs of
  at least float32.

  Args:
    coefficients: (params, u [..., GH]) -> (a, b [..., N]), both real or both complex; a may be [N].
      |a| ≤ 1 is required: products of many a must stay finite.
    readout: (params, s [..., N], u) -> y [..., H].
    project: (params, x) -> u, in the dtype of x, to which its parameters are cast.

  Returns:
    The functions "project", "step", "coefficients" and "readout" of the cell.
  """

  def call_wide(function, *args):
    return function(*jax.tree.map(lambda leaf: leaf.astype(accumulation_dtype(leaf.dtype)), args))

  def project_narrow(params, x):
    return project(jax.tree.map(lambda leaf: leaf.astype(x.dtype), params), x)

  def read_narrow(params, s, u):
    return (call_wide(readout, params, s, u) if readout else s).astype(u.dtype)

  def step(params, carry, u):
    a, b = call_wide(coefficients, params, u)
    s = a * unpack_state(carry) + b
    y = read_narrow(params, s, u)
    return pack_carry(y, s, carry), y

  return {
    "project": project_narrow,
    "step": step,
    "coefficients": functools.partial(call_wide, coefficients),
    "readout": read_narrow,
  }


def unpack_state(carry: Carry) -> Array:
  """Return s of the carry (h,), (h, s) or (h, Re s, Im s) of a linear recurrence."""
  if len(carry) == 3:
    return jax.lax.complex(carry[1], carry[2])
  return carry[-1]


def pack_carry(h: Array, s: Array, like: Carry) -> Carry:
  """Return the carry of h and s in the form of the carry `like`."""
  if len(like) == 3:
    return h, s.real, s.imag
  return (h, s)[: len(like)]


def zero_carry(*sizes: int) -> Callable[[Array], Carry]:
  """Return an `initial_carry` of zeros with parts [..., size].

  The first part, h, has the dtype of x; the others, which sum over time, at least float32.
  """

  def initial_carry(x):
    dtypes = [x.dtype] + [accumulation_dtype(x.dtype)] * (len(sizes) - 1)
    return tuple(zeros_like_batch(x, size, dtype) for size, dtype in zip(sizes, dtypes))

  return initial_carry


def zeros_like_batch(x: Array, features: int, dtype=None) -> Array:
  """Return zeros [..., features] derived from x [..., D], and so sharded like x."""
  return jnp.broadcast_to(jnp.zeros_like(x[..., :1], dtype), (*x.shape[:-1], features))


def accumulation_dtype(dtype) -> jnp.dtype:
  """Return the dtype in which sums over time are accumulated: at least float32."""
  return jnp.promote_types(dtype, jnp.float32)

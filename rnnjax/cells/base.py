"""The interface of a recurrent cell, and the functions that build cells.

There are three forms of cells. `additive` and `linear_recurrence` build two known forms, for which
faster backends exist. A cell of any other form defines `project` and `step` itself.
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

      uₜ = project(params, xₜ)                the part that does not depend on the carry
      carryₜ, yₜ = step(params, carryₜ₋₁, uₜ)

  `project` and `step` get all batch axes of one time step. A step may mix rows, e.g. with a mean
  over the batch or a convolution over spatial axes.

  Attributes:
    name: string that repr() returns, e.g. lstm(256).
    features: H, the number of features of y and of the hidden state h = carry[0].
    init: (key, D) -> params, a flat dict of arrays.
    initial_carry: x [..., D] -> carry. The carry is computed from x, so it has the sharding of x.
    project: (params, x [..., D]) -> u [..., GH].
    step: (params, carry, u) -> (carry, y [..., H]).
    pointwise: (params, carry, gates) -> (carry, y), for cells built by `additive` with the
      projection x W + b; None for other cells.
    num_split_gates: number of gates at the end of the gate list for which `pointwise` gets u and
      h U separately instead of u + h U. It is 0 for cells that are not built by `additive`.
    coefficients: (params, u) -> (a, b), for cells built by `linear_recurrence`; None for others.
    readout: (params, s, u) -> y, for cells built by `linear_recurrence`; None for others.
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
  """Convert a function that returns the functions of a cell to one that returns a cached `Cell`.

  Calls with equal arguments return the same object, so jit compiles once. All arguments must be
  hashable. The cell's name is its constructor call without default arguments.

  Args:
    build: (features, ...) -> dict with the keys "init", "initial_carry", "project" and "step".
      `additive` and `linear_recurrence` return a dict with "project", "step" and further keys.

  Raises (when a cell is built):
    ValueError: the first argument, features, is not a positive integer.
    ValueError: the dict returned by `build` has missing or unknown keys.
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
    if "start" in functions:  # alias of "initial_carry"
      functions["initial_carry"] = functions.pop("start")
    required = {"init", "initial_carry", "project", "step"}
    if not required <= functions.keys() <= {*Cell._fields}:
      raise ValueError(
        f"{factory_name} must return a dict with the keys {sorted(required)}, as functions of a "
        f"Cell; got {sorted(functions)}"
      )
    # Backends that use `pointwise` assume the projection x W + b.
    if functions["project"] is not project:
      functions["pointwise"] = None
    return Cell(f"{factory_name}({', '.join([str(features), *options])})", features, **functions)

  @functools.wraps(build)
  def factory(*args, **kwargs):
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    (_, features), *options = bound.arguments.items()
    # Check before the cache lookup, because 2.0 and 2 are the same cache key.
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
  """Return the input projection of all gates, u = x W + b [..., GH], from x [..., D]."""
  return x @ params["W"] + params["b"]


def preactivations(u: Array, v: Array, num_gates: int, num_split_gates: int = 0) -> list[Array]:
  """Return the preactivations of the gates from u = x W + b and v = h U.

  u and v are split into G = num_gates blocks u₁, ..., u_G and v₁, ..., v_G. With
  n = G − num_split_gates, the result is

      [u₁ + v₁, ..., uₙ + vₙ, uₙ₊₁, ..., u_G, vₙ₊₁, ..., v_G]
  """
  return add_preactivations(
    jnp.split(u, num_gates, -1), jnp.split(v, num_gates, -1), num_split_gates
  )


def add_preactivations(us: list[Array], vs: list[Array], num_split_gates: int) -> list[Array]:
  """Return the preactivations of the gates, given the blocks of u and v (`preactivations`)."""
  num_added = len(us) - num_split_gates
  return [u + v for u, v in zip(us[:num_added], vs)] + us[num_added:] + vs[num_added:]


def additive(pointwise: Callable, num_gates: int, num_split_gates: int = 0) -> dict:
  """Build an additive cell, which applies a pointwise function to the sum of x W + b and h U.

      carryₜ, yₜ = pointwise(params, carryₜ₋₁, preactivations(xₜ W + b, hₜ₋₁ U))

  Only h U and `pointwise` depend on the previous step. So a backend can compute x W + b and the
  gradients of W, U and b for all steps at once.

  Args:
    pointwise: (params, carry, gates) -> (carry, y); it may read all parameters except W, U and b.
    num_gates: number of gates, G. W, U and b each consist of G blocks.
    num_split_gates: number of trailing gates for which `pointwise` gets the blocks of x W + b and
      h U separately instead of their sum.

  Returns:
    A dict with the keys "project", "step", "pointwise" and "num_split_gates", for `cell_factory`.
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

  a and b do not depend on s, so all steps can run in parallel (`rnnjax.backends.associative`). The
  carry is (h, s), or (h, Re s, Im s) if s is complex, or (h,) if s equals h in value and dtype. In
  the first two cases s is float32 or wider. `coefficients` and `readout` get float32 or wider
  inputs.

  Args:
    coefficients: (params, u [..., GH]) -> (a, b [..., N]), both real or both complex; a may be [N].
      |a| ≤ 1 is required, so that products of many a stay finite.
    readout: (params, s [..., N], u) -> y [..., H].
    project: (params, x) -> u, in the dtype of x. The parameters are cast to this dtype.

  Returns:
    A dict with the keys "project", "step", "coefficients" and "readout", for `cell_factory`.
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
  """Return the state s from the carry (h,), (h, s) or (h, Re s, Im s) of a linear recurrence."""
  if len(carry) == 3:
    return jax.lax.complex(carry[1], carry[2])
  return carry[-1]


def pack_carry(h: Array, s: Array, like: Carry) -> Carry:
  """Return the carry (h,), (h, s) or (h, Re s, Im s), with as many arrays as the carry `like`."""
  if len(like) == 3:
    return h, s.real, s.imag
  return (h, s)[: len(like)]


def zero_carry(*sizes: int) -> Callable[[Array], Carry]:
  """Return a function x -> carry: a tuple with one array of zeros [..., size] for each size.

  The first array, h, has the dtype of x. The other arrays accumulate over time, so they are float32
  or wider.
  """

  def initial_carry(x):
    dtypes = [x.dtype] + [accumulation_dtype(x.dtype)] * (len(sizes) - 1)
    return tuple(zeros_like_batch(x, size, dtype) for size, dtype in zip(sizes, dtypes))

  return initial_carry


def zeros_like_batch(x: Array, features: int, dtype=None) -> Array:
  """Return zeros [..., features] with the batch axes and the sharding of x [..., D]."""
  return jnp.broadcast_to(jnp.zeros_like(x[..., :1], dtype), (*x.shape[:-1], features))


def accumulation_dtype(dtype) -> jnp.dtype:
  """Return the dtype in which sums over time are accumulated: float32 or wider."""
  return jnp.promote_types(dtype, jnp.float32)

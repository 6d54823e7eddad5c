"""What a recurrent cell is, and what all cells share: factories and initialisers."""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Carry, InvalidInputError, Key, Params


class Cell(NamedTuple):
  """One tick of a recurrence, as pure functions.

      uₜ = project(params, xₜ)                all that need not wait for hₜ₋₁
      carryₜ, yₜ = step(params, carryₜ₋₁, uₜ)

  Attributes:
    name: how the cell prints, e.g. lstm(256).
    features: H, the width of y and of h, which is carry[0].
    init: key, D -> params, a flat dict of arrays.
    start: x [..., D] -> the first carry, derived from x so that it is sharded as x is.
    project: params, x [..., D] -> u [..., GH].
    step: params, carry, u -> carry, y [..., H]. `project` and `step` see all batch axes of one time
      step and may mix rows, e.g. by a mean over the batch or a convolution over further axes.
    pointwise: params, carry, gates -> carry, y for cells of the form of `additive`, and so of the
      projection x W + b; else None.
    apart: how many of the last blocks of u and h U such a cell keeps apart instead of adding them.
    linear: params, u -> a, b for cells of the form of `linear`; else None.
    read: params, s, u -> y for such cells.
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


def cell_factory(make: Callable) -> Callable:
  """A cell factory that returns the same cell for the same arguments, so that jit compiles once.

  `make(features, ...)` returns the cell's functions as a dict: init, start, and either project and
  step or what `additive` or `linear` makes. The cell's name is the call as one would write it,
  defaults left out. All arguments must be hashable.

  Raises (when the factory is called):
    ValueError: features, the first argument, is not a positive integer.
  """
  signature = inspect.signature(make)
  title = make.__name__

  @functools.cache
  def cached(features, *arguments):
    parameters = signature.parameters
    options = [f"{key}={value!r}" for key, value in arguments if value != parameters[key].default]
    name = f"{title}({', '.join([str(features), *options])})"
    with jax.ensure_compile_time_eval():  # arrays that a cell keeps must outlive what is traced
      made = make(features, **dict(arguments))
    if made["project"] is not project:  # what `pointwise` says of the step is not all, then
      made["pointwise"] = None
    return Cell(name, features, **made)

  @functools.wraps(make)
  def call(*args, **kwargs):
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    (_, features), *options = bound.arguments.items()
    try:
      number = operator.index(features)  # before the cache, for which 2.0 is 2
    except TypeError:
      number = 0
    if number < 1:
      raise ValueError(
        f"{title} needs a positive integer as its number of features; got {features!r}"
      )
    return cached(number, *options)

  return call


def project(params: Params, x: Array) -> Array:
  """u = x W + b: the share of every gate that the input alone decides. [..., D] -> [..., GH]."""
  return x @ params["W"] + params["b"]


def preactivations(u: Array, v: Array, num_gates: int, num_split_gates: int = 0) -> list[Array]:
  """What enters the nonlinearities: u + v, in `number` blocks, the last `apart` left unadded.

  u₁ + v₁, ..., u_n + v_n, then the last blocks of u alone, then those of v alone
  """
  return add_preactivations(
    jnp.split(u, num_gates, -1), jnp.split(v, num_gates, -1), num_split_gates
  )


def add_preactivations(us: list[Array], vs: list[Array], num_split_gates: int) -> list[Array]:
  """As `gates`, of blocks that are cut already."""
  summed = len(us) - num_split_gates
  return [a + b for a, b in zip(us[:summed], vs)] + us[summed:] + vs[summed:]


def additive(pointwise: Callable, num_gates: int, num_split_gates: int = 0) -> dict:
  """The functions of a cell that adds u = x W + b and h U and is pointwise beyond.

      carryₜ, yₜ = pointwise(params, carryₜ₋₁, gates(uₜ, hₜ₋₁ U))

  Its loop over time has nothing but one product to wait for, which every backend knows to use.

  Args:
    pointwise: params, carry, gates -> carry, y; of params it may read all but W, U and b.
    number: G, the blocks of W, U and b.
    apart: the last blocks of x W + b and h U that are not added.

  Returns:
    {"project", "step", "pointwise", "num_split_gates"}.
  """

  def step(params, carry, u):
    return pointwise(
      params, carry, preactivations(u, carry[0] @ params["U"], num_gates, num_split_gates)
    )

  return {
    "project": project,
    "step": step,
    "pointwise": pointwise,
    "num_split_gates": num_split_gates,
  }


def linear_recurrence(
  coefficients: Callable, readout: Callable | None = None, project: Callable = project
) -> dict:
  """The functions of a cell whose state is linear in the one before it.

      aₜ, bₜ = coefficients(params, uₜ)            uₜ = xₜ W + b
      sₜ = aₜ ⊙ sₜ₋₁ + bₜ
      yₜ = read(params, sₜ, uₜ)                    without `read` yₜ = sₜ

  No a or b depends on s, so all steps can run at once (`rnnjax.backends.associative`). The carry
  is (h, s), or (h, Re s, Im s) where s is complex, or (h,) where h is s in its own type; s beside h
  is float32 or wider, and both functions are given, and compute, no less.

  Args:
    coefficients: params, u [..., GH] -> a, b [..., N], both real or both complex; a may be [N].
      |a| ≤ 1: products of many a must stay finite.
    read: params, s [..., N], u -> y [..., H].
    project: params, x -> u, in the type of x: it gets parameters of that type.

  Returns:
    {"project", "step", "coefficients", "readout"}.
  """

  def widened(function, *args):
    return function(*jax.tree.map(lambda p: p.astype(accumulation_dtype(p.dtype)), args))

  def project_narrow(params, x):
    return project(jax.tree.map(lambda p: p.astype(x.dtype), params), x)

  def read_narrow(params, s, u):
    return (widened(readout, params, s, u) if readout else s).astype(u.dtype)

  def step(params, carry, u):
    a, b = widened(coefficients, params, u)
    s = a * unpack_state(carry) + b
    y = read_narrow(params, s, u)
    return pack_carry(y, s, carry), y

  return {
    "project": project_narrow,
    "step": step,
    "coefficients": functools.partial(widened, coefficients),
    "readout": read_narrow,
  }


def unpack_state(carry: Carry) -> Array:
  """s of a linear cell's carry (h,), (h, s) or (h, Re s, Im s)."""
  h, *s = carry
  return jax.lax.complex(*s) if len(s) == 2 else s[0] if s else h


def pack_carry(h: Array, s: Array, like: Carry) -> Carry:
  """The carry of h and s, in the form of another one."""
  return (h, *{1: (), 2: (s,), 3: (s.real, s.imag)}[len(like)])


def zeros_like_batch(x: Array, features: int, dtype=None) -> Array:
  """Zeros [..., features] derived from x [..., D], and so sharded as x is."""
  return jnp.broadcast_to(jnp.zeros_like(x[..., :1], dtype), (*x.shape[:-1], features))


def accumulation_dtype(dtype) -> jnp.dtype:
  """The type in which a sum over time is kept: at least float32."""
  return jnp.promote_types(dtype, jnp.float32)


def init_gates(key: Key, D: int, H: int, num_gates: int) -> Params:
  """W [D, GH] Glorot uniform and U [H, GH] orthogonal, gate by gate; b [GH] zero.

  Glorot & Bengio 2010; Saxe, McClelland & Ganguli 2014 (orthogonal).
  """
  orthogonal, keys = jax.nn.initializers.orthogonal(), jax.random.split(key, (2, num_gates))
  U = jnp.concatenate([orthogonal(k, (H, H)) for k in keys[1]], -1)
  return init_dense(keys[0], D, H) | {"U": U}


def chrono_bias(key: Key, max_steps: float, features: int) -> Array:
  """Biases with which gates keep what they hold for 2 to `longest` steps. [features]

      b = log u,  u uniform in [1, longest − 1];  1 − σ(b) = 1/(1 + u)

  Tallec & Ollivier, Can recurrent neural networks warp time?, 2018 ("chrono initialization").

  Raises:
    BadInput: longest is less than 2.
  """
  if not max_steps >= 2:
    raise InvalidInputError(
      f"the longest time to remember (chrono) must be 2 steps or more; got {max_steps}"
    )
  return jnp.log(jax.random.uniform(key, (features,), minval=1, maxval=max_steps - 1))


def init_dense(keys: Array, D: int, H: int) -> Params:
  """W [D, GH] Glorot uniform, gate by gate, and b [GH] zero, of G keys: all of a cell without U."""
  glorot = jax.nn.initializers.glorot_uniform()
  W = jnp.concatenate([glorot(k, (D, H)) for k in keys], -1)
  return {"W": W, "b": jnp.zeros(len(keys) * H)}

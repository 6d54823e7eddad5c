"""Solve linear recurrences, in parallel or step by step.

    δₜ = Jₜ δₜ₋₁ + rₜ,   δ₀ = 0

Each step is an affine map. The composition of two affine maps is affine,
(B, q) ∘ (A, p) = (BA, Bp + q), and composition is associative. So pairs of steps are composed, then
pairs of pairs, and so on. This is a tree of depth log₂ T instead of T sequential steps (Blelloch,
Prefix Sums and Their Applications, 1990).
"""

import operator

import jax
import jax.numpy as jnp

from rnnjax.types import Array


def matvec(J: Array, δ: Array) -> Array:
  """Return J δ [..., n], where J is a matrix [..., n, n] or the diagonal [..., n] of a matrix."""
  return J * δ if J.ndim == δ.ndim else (J @ δ[..., None])[..., 0]


def parallel_linear_scan(J: Array, r: Array, reverse: bool = False) -> Array:
  """Return the solution δ [T, ..., n] of δₜ = Jₜ δₜ₋₁ + rₜ, δ₀ = 0, with an associative scan.

  Args:
    J: matrices [T, ..., n, n], or diagonals of matrices [T, ..., n].
    r: vectors [T, ..., n].
    reverse: run from the last step to the first.
  """
  product = operator.mul if J.ndim == r.ndim else operator.matmul

  def compose(first, second):
    (A, p), (B, q) = first, second
    return product(B, A), matvec(B, p) + q

  _, δ = jax.lax.associative_scan(compose, (J, r), reverse=reverse)
  return δ


def sequential_linear_scan(J: Array, r: Array, reverse: bool = False) -> Array:
  """Return the solution δ [T, ..., n] of δₜ = Jₜ δₜ₋₁ + rₜ, δ₀ = 0, computed step by step.

  Arguments are as for `parallel_linear_scan`. The parallel scan multiplies the matrices J of
  different steps. These products may overflow even if δ is finite. This function does not compute
  them.
  """

  def step(δ, inputs):
    J, r = inputs
    δ = matvec(J, δ) + r
    return δ, δ

  # r[0] * 0 has the sharding of r; new zeros would not.
  _, δ = jax.lax.scan(step, r[0] * 0, (J, r), reverse=reverse)
  return δ


def shift_one_step(first: Array, δ: Array, reverse: bool = False) -> Array:
  """Return the values before each step, [first, δ[0], ..., δ[T − 2]], as an array [T, ..., n].

  If `reverse` is set, the result is [δ[1], ..., δ[T − 1], first].

  Args:
    first: value before the first step, [..., n].
    δ: values after each step, [T, ..., n].
    reverse: whether the steps run from the last index of δ to the first.
  """
  parts = (δ[1:], first[None]) if reverse else (first[None], δ[:-1])
  return jnp.concatenate(parts)

"""Linear recurrences, in parallel or step by step.

    δₜ = Jₜ δₜ₋₁ + rₜ,   δ₀ = 0

The composition of two affine maps is affine, (B, q) ∘ (A, p) = (BA, Bp + q), and composition is
associative. So pairs of steps are composed, then pairs of pairs, and so on: a tree of depth log₂ T
instead of T sequential steps (Blelloch, Prefix Sums and Their Applications, 1990).
"""

import operator

import jax
import jax.numpy as jnp

from rnnjax.types import Array


def matvec(J: Array, δ: Array) -> Array:
  """Return J δ of matrices J [..., n, n] or diagonals J [..., n], and vectors δ [..., n]."""
  return J * δ if J.ndim == δ.ndim else (J @ δ[..., None])[..., 0]


def parallel_linear_scan(J: Array, r: Array, reverse: bool = False) -> Array:
  """Return δ [T, ..., n] of δₜ = Jₜ δₜ₋₁ + rₜ by an associative scan.

  Args:
    J: matrices [T, ..., n, n], or diagonals [T, ..., n].
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
  """Return the result of `parallel_linear_scan`, computed step by step.

  Unlike the parallel scan, it never multiplies Jacobians. Their product may overflow even if δ does
  not.
  """

  def step(δ, inputs):
    J, r = inputs
    δ = matvec(J, δ) + r
    return δ, δ

  # r[0] * 0 instead of new zeros: it is sharded as r is.
  _, δ = jax.lax.scan(step, r[0] * 0, (J, r), reverse=reverse)
  return δ


def shift_one_step(first: Array, δ: Array, reverse: bool = False) -> Array:
  """Return the value before each step, [T, ..., n]: first, δ₁, ..., δ_T₋₁.

  In reverse these are δ₂, ..., δ_T, first.

  Args:
    first: value before the first step, [..., n].
    δ: values after each step, [T, ..., n].
    reverse: the first step is the last in the array.
  """
  parts = (δ[1:], first[None]) if reverse else (first[None], δ[:-1])
  return jnp.concatenate(parts)

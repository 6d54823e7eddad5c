"""A linear recurrence, all steps at once: Blelloch, Prefix Sums and Their Applications, 1990.

    δₜ = Jₜ δₜ₋₁ + rₜ,   δ₀ = 0

Two affine maps in a row are one, (B, q) ∘ (A, p) = (BA, Bp + q), and this is associative: pairs of
steps, then pairs of pairs, take log₂ T rounds where one step after the other takes T.
"""

import jax
import jax.numpy as jnp

from rnnjax.types import Array


def matvec(J: Array, δ: Array) -> Array:
  """J δ, of matrices J [..., n, n], or of diagonals [..., n]."""
  return J * δ if J.ndim == δ.ndim else (J @ δ[..., None])[..., 0]


def parallel_linear_scan(J: Array, r: Array, reverse: bool = False) -> Array:
  """δ [T, ..., n] by an associative scan; from the last step to the first in reverse.

  Args:
    J: [T, ..., n, n], or diagonals [T, ..., n].
    r: [T, ..., n].
  """
  product = (lambda B, A: B * A) if J.ndim == r.ndim else (lambda B, A: B @ A)

  def join(first, second):
    (A, p), (B, q) = first, second
    return product(B, A), matvec(B, p) + q

  return jax.lax.associative_scan(join, (J, r), reverse=reverse)[1]


def sequential_linear_scan(J: Array, r: Array, reverse: bool = False) -> Array:
  """As `at_once`, one step after the other: no product of many J is made, which could overflow."""

  def step(δ, inputs):
    J, r = inputs
    δ = matvec(J, δ) + r
    return δ, δ

  return jax.lax.scan(step, r[0] * 0, (J, r), reverse=reverse)[1]


def shift_one_step(first: Array, δ: Array, reverse: bool = False) -> Array:
  """What enters each step: first [..., n], δ₁, ..., δ_T₋₁; in reverse δ₂, ..., δ_T, first."""
  parts = (δ[1:], first[None]) if reverse else (first[None], δ[:-1])
  return jnp.concatenate(parts)

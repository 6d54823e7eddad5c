"""Tests that every backend equals the reference `scan`: outputs, carry and all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.backends.deferred import DeferredOptions, deferred
from rnnjax.backends.interface import Backend, always_available
from rnnjax.unroll import BACKENDS
from tests.cell_cases import (
  CASES,
  FORMS,
  LENGTHS,
  is_supported,
  random_inputs,
  value_and_gradients,
)

# Options other than those that `choose_options` returns here.
BACKENDS |= {
  f"deferred {options}": functools.partial(
    Backend, functools.partial(deferred, options=options), always_available
  )
  for options in (
    DeferredOptions(chunk_size=2),
    DeferredOptions(save_gates=False, chunk_size=3, concat_gates=True, unroll=2),
    DeferredOptions(save_gates=False),
    DeferredOptions(precompute_inputs=True, concat_gates=True, unroll=4),
  )
}

SETTINGS = {  # cells, reverse, lengths, dtype, precision
  "full": (FORMS, False, None, np.float64, 1e-12),
  "reverse": (CASES, True, LENGTHS, np.float64, 1e-12),
  "float32": (FORMS, False, LENGTHS, np.float32, 1e-6),
}
SCAN_CASES = {
  f"{name}-{case.cell}-{backend}": (case, backend, *setting)
  for backend in sorted(set(BACKENDS) - {"scan"})
  for name, (cases, *setting) in SETTINGS.items()
  for case in cases
  if is_supported(case, backend, setting[2])
}
BFLOAT16_CASES = {
  f"{case.cell}-{backend}": (case, backend)
  for backend in sorted(BACKENDS)
  for case in FORMS
  if is_supported(case, backend, jnp.bfloat16)
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "case, backend, reverse, lengths, dtype, precision", SCAN_CASES.values(), ids=SCAN_CASES
)
def test_outputs_and_gradients_equal_scan(case, backend, reverse, lengths, dtype, precision):
  """They have the input's dtype and agree to its precision, relative to the largest number."""
  args = case.params(dtype), random_inputs(dtype=dtype), lengths, case.carry(dtype=dtype), reverse
  actual, expected = (
    value_and_gradients(case.cell, *args, backend=name) for name in (backend, "scan")
  )
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype == dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * max(1, abs(b).max()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=["none", "two"])
@pytest.mark.parametrize("backend", [name for name in sorted(BACKENDS) if "deferred" in name])
def test_any_number_of_batch_axes(backend, batch):
  """The gradients of parameters that `pointwise` reads are summed over all rows, too."""
  case = next(case for case in CASES if "p" in case.params())
  args = case.params(), random_inputs(batch=batch), None, case.carry(batch=batch)
  actual, expected = (
    value_and_gradients(case.cell, *args, backend=name) for name in (backend, "scan")
  )
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, abs(b).max()))


@pytest.mark.parametrize("case, backend", BFLOAT16_CASES.values(), ids=BFLOAT16_CASES)
def test_bfloat16_close_to_float32_scan(case, backend):
  """bfloat16 outputs and gradients agree with float32 to 2⁻⁵: bfloat16 has 8 bits of precision."""
  low = jax.tree.map(jnp.bfloat16, (case.params(), random_inputs()))
  carry = case.carry(dtype=np.float32)
  (_, (_, ys)), grads = value_and_gradients(case.cell, *low, LENGTHS, carry, backend=backend)
  high = jax.tree.map(jnp.float32, low)
  (_, (_, expected)), expected_grads = value_and_gradients(
    case.cell, *high, LENGTHS, carry, backend="scan"
  )
  assert ys.dtype == jnp.bfloat16
  actual, expected = (ys, grads), (expected, expected_grads)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(jnp.float32(a), b, rtol=0, atol=2**-5 * max(1, abs(b).max()))


def test_default_backend_equals_scan():
  """backend="auto" agrees with `scan`."""
  args = CASES[0].cell, CASES[0].params(np.float32), random_inputs(dtype=np.float32)
  (_, (_, ys)), _ = value_and_gradients(*args, LENGTHS, CASES[0].carry(dtype=np.float32))
  (_, (_, expected)), _ = value_and_gradients(
    *args, LENGTHS, CASES[0].carry(dtype=np.float32), backend="scan"
  )
  np.testing.assert_allclose(ys, expected, rtol=0, atol=1e-6)

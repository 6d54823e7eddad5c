"""`check_cell` tests whether a custom cell satisfies the requirements of this library (`LAWS`).

    from rnnjax.testing import check_cell
    check_cell(my_cell(5))

Stacking, padding, training and all backends rely on these laws. The laws are checked in float64 on
small random arrays. `unroll` itself raises an error for other mistakes, such as a step that returns
a carry of the wrong shape.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from rnnjax.cells import Cell
from rnnjax.masking import padding_mask
from rnnjax.unroll import backend_status, unroll

T, D = 6, 4


class CellCase:
  """A test case for a cell: the cell with random parameters, inputs and initial carry.

  Attributes:
    cell: the cell to test.
    mixes_rows: whether a step may compute a row from other rows of the batch.
    batch_shape: sizes of the axes between time and features.
    xs: inputs [T, *batch_shape, D].
    lengths: valid steps along the first batch axis: T, 0, T // 2, T, 0, ...
    params: the parameters, float64.
    carry: the initial carry.
  """

  def __init__(self, cell: Cell, batch_shape: tuple[int, ...] = (3,), mixes_rows: bool = False):
    rng = np.random.default_rng(0)

    def random_like(a):
      return jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype)

    def to_float64(p):
      return jnp.float64(p) if jnp.issubdtype(jnp.asarray(p).dtype, jnp.floating) else p

    self.cell, self.mixes_rows = cell, mixes_rows
    self.batch_shape = tuple(batch_shape)
    self.xs = jnp.asarray(rng.normal(size=(T, *batch_shape, D)))
    # A full row, an empty row, and a partly padded row.
    self.lengths = np.resize([T, 0, T // 2], batch_shape[0])
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    self.params = jax.tree.map(to_float64, jax.tree.map(random_like, shapes))
    self.carry = jax.tree.map(random_like, cell.initial_carry(self.xs[0]))

  @functools.cached_property
  def expected(self):
    """Final carry and outputs of the scan backend on the padded inputs."""
    return self(lengths=self.lengths)

  @functools.cached_property
  def expected_gradients(self):
    """Gradients of the scan backend on the padded inputs."""
    return self.gradients(lengths=self.lengths)

  def __call__(self, xs=None, lengths=None, carry=None, backend="scan"):
    """Unroll the cell, and return the final carry and the outputs.

    If `xs` or `carry` is None, the attribute of the same name is used.
    """
    xs, carry = self.xs if xs is None else xs, self.carry if carry is None else carry
    return unroll(self.cell, self.params, xs, lengths, carry=carry, backend=backend)

  def gradients(self, xs=None, lengths=None, backend="scan"):
    """Return the gradients of a test loss with respect to (params, xs, carry).

    The loss depends on the final carry and on all outputs.
    """

    def loss(params, xs, carry):
      outputs = unroll(self.cell, params, xs, lengths, carry=carry, backend=backend)
      return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs))

    return jax.grad(loss, (0, 1, 2))(self.params, self.xs if xs is None else xs, self.carry)


def assert_close(actual, expected, message: str, atol: float = 1e-9):
  """Check that two pytrees of arrays are equal up to `atol`.

  Raises:
    AssertionError: a difference is larger than atol, or NaN. The error message contains `message`
      and the difference.
  """
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    # np.max instead of jnp.max: XLA's maximum over thousands of numbers ignores NaN on a CPU
    # (jaxlib 0.10).
    difference = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
    assert difference <= atol, f"{message} (they differ by {difference:.2g})"


def carry_starts_with_output(case: CellCase):
  """The carry is a tuple of arrays [*batch, ...]; the first is h [*batch, H], in the dtype of x."""
  carry, batch_shape, x = case.cell.initial_carry(case.xs[0]), case.batch_shape, case.xs.shape[1:]
  h_shape = (*batch_shape, case.cell.features)
  assert isinstance(carry, tuple) and carry[0].shape == h_shape, (
    f"initial_carry(x) must be a tuple of arrays, the first of which is h {h_shape} for x {x}; "
    f"got {jax.tree.map(jnp.shape, carry)}"
  )
  for part in carry:
    assert part.shape[: len(batch_shape)] == batch_shape, (
      f"each array of initial_carry(x) must start with the batch axes of x; got {part.shape} for "
      f"x {x}. Create it with zeros_like_batch(x, H)"
    )
  low_precision = case.cell.initial_carry(case.xs[0].astype(jnp.bfloat16))
  assert low_precision[0].dtype == jnp.bfloat16, (
    f"initial_carry(x)[0] must have the dtype of x; it is {low_precision[0].dtype} for bfloat16. "
    "Is it jnp.zeros(...) without a dtype?"
  )


def preserves_dtypes(case: CellCase):
  """bfloat16 inputs give bfloat16 outputs, with parameters of any dtype."""
  _, ys = unroll(case.cell, case.params, case.xs.astype(jnp.bfloat16), backend="scan")
  assert ys.dtype == jnp.bfloat16, (
    f"bfloat16 inputs must give bfloat16 outputs; got {ys.dtype}. A NumPy array or a float32 part "
    "of the carry promotes everything that is computed from it"
  )


def is_pure(case: CellCase):
  """Equal inputs give equal outputs, even if the sequence is split into two calls."""
  message = "two calls with the same inputs differ. Does the step have state outside the carry"
  assert_close(case(), case(), f"{message}?")
  carry, first_half = case(case.xs[:2])
  carry, second_half = case(case.xs[2:], carry=carry)
  assert_close(
    (carry, jnp.concatenate([first_half, second_half])), case(), f"{message}, or count steps?"
  )


def batch_rows_independent(case: CellCase):
  """The result of a row does not depend on other rows; skipped if `mixes_rows` is set."""
  if case.mixes_rows:
    return
  carry, ys = case()
  rows = [slice(b, b + 1) for b in range(case.batch_shape[0])]
  # If there is a single batch axis, also test without a batch axis.
  rows += range(case.batch_shape[0]) if len(case.batch_shape) == 1 else []
  for row in rows:
    initial, final = jax.tree.map(lambda c, row=row: c[row], (case.carry, carry))
    assert_close(
      (final, ys[:, row]),
      case(case.xs[:, row], carry=initial),
      (
        f"row {row} of a batch depends on the other rows. Does step or project reduce over all "
        "axes, or over axis 0, instead of axis -1? If rows are to be mixed, pass mixes_rows=True"
      ),
    )


def ignores_padding(case: CellCase):
  """Padding changes neither outputs nor gradients, even if it is NaN."""
  padding = ~padding_mask(case.xs, case.lengths)[..., None]
  xs = jnp.where(padding, jnp.nan, case.xs)
  assert_close(case(xs, case.lengths), case.expected, "NaN in the padding changes the outputs")
  gradients = case.gradients(xs, case.lengths)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), (
    "NaN in the padding changes gradients to NaN. Is a derivative of the step infinite at x = 0, "
    "like that of sqrt or of a norm?"
  )
  assert_close(gradients, case.expected_gradients, "NaN in the padding changes the gradients")


def gradients_are_correct(case: CellCase):
  """Gradients agree with finite differences, at points where the step is smooth."""

  def run(params, xs, carry):
    return unroll(case.cell, params, xs, carry=carry, backend="scan")

  try:
    args = case.params, case.xs, case.carry
    check_grads(run, args, order=1, modes=["rev"], eps=1e-5, atol=1e-5, rtol=1e-5)
  except AssertionError as error:
    raise AssertionError(
      "gradients differ from finite differences. Does the step contain stop_gradient, rounding or "
      f"a custom derivative? {error}"
    ) from None


def backends_agree(case: CellCase):
  """All available backends except `newton` have the same outputs and gradients as `scan`."""
  for backend, reason in backend_status(case.cell, case.params, case.xs, case.carry).items():
    # The newton backend is skipped: it uses the same `step` as the scan, and it compiles slowly.
    if reason or backend in ("scan", "newton"):
      continue
    message = f"backend {backend!r} and 'scan' disagree on "
    fix = (
      ". Does step compute the same as pointwise, or as coefficients and readout? Build the cell "
      "with `additive` or `linear_recurrence`"
    )
    actual = case(lengths=case.lengths, backend=backend)
    assert_close(actual, case.expected, message + "outputs" + fix)
    gradients = case.gradients(lengths=case.lengths, backend=backend)
    assert_close(gradients, case.expected_gradients, message + "gradients" + fix)


LAWS: tuple[Callable[[CellCase], None], ...] = (
  carry_starts_with_output,
  preserves_dtypes,
  is_pure,
  batch_rows_independent,
  ignores_padding,
  gradients_are_correct,
  backends_agree,
)


def check_cell(cell: Cell, *, batch_shape: tuple[int, ...] = (3,), mixes_rows: bool = False):
  """Check that a cell satisfies all `LAWS`.

  Args:
    cell: the cell to test; its carry must be floating point.
    batch_shape: sizes of the axes between time and features in xs [T, *batch_shape, D]. It includes
      spatial axes, e.g. (3, 5, 5) for a convolutional LSTM.
    mixes_rows: whether a step may compute a row from other rows of the batch, e.g. with a mean over
      the batch. If it is set, the law `batch_rows_independent` is skipped.

  Raises:
    AssertionError: the cell violates a law; the message names the law and the likely cause.
    TypeError: the cell is not hashable. jit needs hashable cells; use `cell_factory`.
  """
  hash(cell)
  with jax.enable_x64(True):
    case = CellCase(cell, batch_shape, mixes_rows)
    for law in LAWS:
      try:
        law(case)
      except AssertionError as error:
        raise AssertionError(f"{cell} violates the law {law.__name__}: {error}") from None

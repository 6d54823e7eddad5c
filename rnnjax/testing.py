"""The laws that a cell keeps so that stacking, lengths, training and every backend work with it.

    from rnnjax.testing import check_cell
    check_cell(mine(5))

All is computed in float64 on small random numbers. What `unroll` refuses by itself, such as a step
that returns a carry of another shape, it says itself.
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
  """A cell with random parameters, inputs and a random first carry."""

  def __init__(self, cell: Cell, batch_shape: tuple[int, ...] = (3,), mixes_rows: bool = False):
    draw = np.random.default_rng(0)
    random = lambda a: jnp.asarray(draw.normal(0, 0.5, a.shape), a.dtype)
    self.cell, self.mixes_rows = cell, mixes_rows
    self.batch_shape = tuple(batch_shape)
    self.xs = jnp.asarray(draw.normal(size=(T, *batch_shape, D)))
    # A full row, an empty one, and shorter ones; the further batch axes share these lengths.
    self.lengths = np.resize([T, 0, T // 2], batch_shape[0])
    self.params = jax.tree.map(random, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)))
    floating = lambda p: jnp.issubdtype(jnp.asarray(p).dtype, jnp.floating)
    self.params = jax.tree.map(lambda p: jnp.float64(p) if floating(p) else p, self.params)
    self.carry = jax.tree.map(random, cell.initial_carry(self.xs[0]))

  @functools.cached_property
  def expected(self):
    """What the plain loop gives for rows of `lengths`."""
    return self(lengths=self.lengths)

  @functools.cached_property
  def expected_gradients(self):
    """The gradients of that."""
    return self.gradients(lengths=self.lengths)

  def __call__(self, xs=None, lengths=None, carry=None, backend="scan"):
    """The last carry and all outputs."""
    xs, carry = self.xs if xs is None else xs, self.carry if carry is None else carry
    return unroll(self.cell, self.params, xs, lengths, carry=carry, backend=backend)

  def gradients(self, xs=None, lengths=None, backend="scan"):
    """Of a sum of all that comes out, for parameters, inputs and the first carry."""

    def loss(params, xs, carry):
      out = unroll(self.cell, params, xs, lengths, carry=carry, backend=backend)
      return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(out))

    return jax.grad(loss, (0, 1, 2))(self.params, self.xs if xs is None else xs, self.carry)


def assert_close(actual, expected, message: str, atol: float = 1e-9):
  """Two trees agree.

  Raises:
    AssertionError: they do not; by how much, and why that may be.
  """
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    # Not jnp.max: XLA's maximum of thousands of numbers passes NaN by on a CPU (jaxlib 0.10).
    gap = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
    assert gap <= atol, f"{message} (they differ by {gap:.2g})"


def carry_starts_with_output(case: CellCase):
  """The carry begins with h, of H features in the type of x; batch axes come first."""
  first, batch, x = case.cell.initial_carry(case.xs[0]), case.batch_shape, case.xs.shape[1:]
  h = (*batch, case.cell.features)
  assert isinstance(first, tuple) and first[0].shape == h, (
    f"start(x) must be a tuple of arrays whose first is h {h} for x {x}; "
    f"got {jax.tree.map(jnp.shape, first)}"
  )
  for part in first:
    assert part.shape[: len(batch)] == batch, (
      f"each part of start(x) must have the batch axes of x in front; got {part.shape} for x "
      f"{x}. Is it made with zeros(x, H)?"
    )
  low = case.cell.initial_carry(case.xs[0].astype(jnp.bfloat16))
  assert low[0].dtype == jnp.bfloat16, (
    f"start(x)[0] must have the type of x; it is {low[0].dtype} for bfloat16. jnp.zeros(...) has a "
    "type of its own"
  )


def preserves_dtypes(case: CellCase):
  """bfloat16 in, bfloat16 out, with parameters of any type."""
  _, ys = unroll(case.cell, case.params, case.xs.astype(jnp.bfloat16), backend="scan")
  assert ys.dtype == jnp.bfloat16, (
    f"bfloat16 inputs must give bfloat16 outputs; got {ys.dtype}. A NumPy array or a wide part of "
    "the carry in the step makes all that it meets wider"
  )


def is_pure(case: CellCase):
  """Asked twice it answers the same, at once or in two halves: the carry is all that it keeps."""
  why = "asked twice, it answers in two ways. Does the step keep something outside the carry"
  assert_close(case(), case(), f"{why}?")
  carry, one = case(case.xs[:2])
  carry, two = case(case.xs[2:], carry=carry)
  assert_close((carry, jnp.concatenate([one, two])), case(), f"{why}, or count steps?")


def batch_rows_independent(case: CellCase):
  """The result of a row does not depend on the other rows, unless the cell mixes rows."""
  if case.mixes_rows:
    return
  carry, ys = case()
  picks = [slice(b, b + 1) for b in range(case.batch_shape[0])]
  # With one batch axis also without it: any number of batch axes must work.
  picks += range(case.batch_shape[0]) if len(case.batch_shape) == 1 else []
  for pick in picks:
    start, end = jax.tree.map(lambda c, pick=pick: c[pick], (case.carry, carry))
    assert_close(
      (end, ys[:, pick]),
      case(case.xs[:, pick], carry=start),
      (
        f"row {pick} of a batch depends on the other rows. Does step or project reduce over all "
        "axes, or over axis 0, instead of axis -1? If rows are to be mixed, pass mixes_rows=True"
      ),
    )


def ignores_padding(case: CellCase):
  """What stands past a row's length, NaN even, changes neither outputs nor gradients."""
  past = ~padding_mask(case.xs, case.lengths)[..., None]
  padded = jnp.where(past, jnp.nan, case.xs)
  why = "what stands past a row's length changes "
  assert_close(case(padded, case.lengths), case.expected, why + "its outputs")
  got = case.gradients(padded, case.lengths)
  whole = all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
  assert whole, (
    why + "gradients to NaN. Is a derivative of the step infinite where x is 0, as that of sqrt or "
    "of a norm is?"
  )
  assert_close(got, case.expected_gradients, why + "gradients")


def gradients_are_correct(case: CellCase):
  """Gradients are those of finite differences, of numbers that are no kinks."""
  try:
    run = lambda *args: unroll(case.cell, args[0], args[1], carry=args[2], backend="scan")
    args = case.params, case.xs, case.carry
    check_grads(run, args, order=1, modes=["rev"], eps=1e-5, atol=1e-5, rtol=1e-5)
  except AssertionError as error:
    raise AssertionError(
      "gradients are not those of finite differences. Is there a stop_gradient, a rounding or a "
      f"custom derivative in the step? {error}"
    ) from None


def backends_agree(case: CellCase):
  """Every backend that can computes what the plain loop does, gradients too."""
  for backend, why in backend_status(case.cell, case.params, case.xs, case.carry).items():
    if why or backend in ("scan", "newton"):  # the latter asks the step alone, and compiles long
      continue
    why = f"backend {backend!r} and 'scan' disagree on "
    cure = (
      ". Does step say what pointwise says, on gates(u, h U), or what linear and read say? Make "
      "them by `additive` or `linear`"
    )
    assert_close(case(lengths=case.lengths, backend=backend), case.expected, why + "outputs" + cure)
    gradients = case.gradients(lengths=case.lengths, backend=backend)
    assert_close(gradients, case.expected_gradients, why + "gradients" + cure)


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
  """Check a cell against every law.

  Args:
    cell: the cell; its carry must be floating point.
    batch_shape: the axes between time and features of the inputs xs [T, *batch_shape, D]. A cell
      with spatial axes, such as a convolutional LSTM, needs all of them, e.g. (3, 5, 5).
    mixes_rows: whether a step may compute a row from other rows of the batch, e.g. by a mean over
      the batch. The law `keeps_rows_apart` is then skipped.

  Raises:
    AssertionError: a law is broken; the message names it, and the likely cause.
    TypeError: the cell has no hash, which jit needs; `rnnjax.cells.factory` gives it one.
  """
  hash(cell)
  with jax.enable_x64(True):
    subject = CellCase(cell, batch_shape, mixes_rows)
    for law in LAWS:
      try:
        law(subject)
      except AssertionError as error:
        raise AssertionError(f"{cell} breaks the law {law.__name__}: {error}") from None

"""Arrays in files: what numpy and scipy wrote is what they read, and what is damaged is refused."""

import io

import numpy as np
import pytest
import scipy.io

from rnnjax.data.mat import read_cells
from rnnjax.data.npy import read_npy, read_npz
from rnnjax.types import InvalidInputError

DTYPES = "i1 u1 <i2 >u2 <i4 >i4 <u4 <f4 >f4 <f8 >f8 <i8 <u8".split()


@pytest.mark.parametrize("kind", [*DTYPES, "?", "<f2", "<U5", "<c16"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", "CF")
def test_npy_equals_numpy_load(tmp_path, kind, shape, order):
  path, values = tmp_path / "a.npy", np.arange(np.prod(shape, dtype=int)).reshape(shape)
  np.save(path, np.asarray(values.astype(kind), order=order))
  if kind == "<c16":
    with pytest.raises(InvalidInputError, match=r"a\.npy must hold numbers or text"):
      read_npy(path)
    return
  found, true = read_npy(path), np.load(path)
  np.testing.assert_array_equal(found, true, strict=True)


def test_npz_equals_saved_arrays(tmp_path):
  held = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **held)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == held.keys()
    for name in held:
      np.testing.assert_array_equal(found[name], held[name], strict=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_cells_equal_scipy_loadmat(tmp_path, compressed):
  """Cells of numbers in each type and shape, beside other things; as `loadmat` reads them."""
  draw, path = np.random.default_rng(0), tmp_path / "a.mat"
  rows = [
    draw.integers(0, 99, shape).astype(np.dtype(kind).newbyteorder("="))
    for kind in DTYPES
    for shape in ((2, 3), (1, 1), (0, 4), (3, 1), (2, 3, 4))
  ]
  some = np.empty((1, len(rows)), object)
  some[0] = rows
  other = np.empty((1, 3), object)
  other[0, 0], other[0, 1], other[0, 2] = "text", np.array([1j]), np.ones((2, 2))
  held = {"some": some, "a": np.eye(3), "other": other, "s": {"b": 1}, "text": "c", "x": some}
  scipy.io.savemat(path, held, do_compression=compressed)
  found, true = read_cells(path, ["some", "other", "a", "none"]), scipy.io.loadmat(path)
  assert found.keys() == {"some", "other"}
  for one, its in zip(found["some"], true["some"].ravel(), strict=True):
    np.testing.assert_array_equal(one, its, strict=True)
  assert found["other"][:2] == [None, None]
  np.testing.assert_array_equal(found["other"][2], np.ones((2, 2)))


def test_truncated_mat_file_raises(tmp_path):
  """Or else nothing is missing that was asked for."""
  stream, path = io.BytesIO(), tmp_path / "a.mat"
  made = np.empty((1, 2), object)
  made[0] = [np.eye(2), np.ones((1, 3))]
  scipy.io.savemat(stream, {"a": made})
  whole = stream.getvalue()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    if length == 128:
      assert read_cells(path, "a") == {}
    else:
      with pytest.raises(InvalidInputError, match=r"a\.mat cannot be read as a MATLAB file"):
        read_cells(path, "a")

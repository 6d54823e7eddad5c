"""Readers of .npy, .npz and .mat files agree with NumPy and SciPy; damaged files raise."""

import io

import numpy as np
import pytest
import scipy.io

from rnnjax.data.mat import read_cells
from rnnjax.data.npy import read_npy, read_npz
from rnnjax.types import InvalidInputError

DTYPES = "i1 u1 <i2 >u2 <i4 >i4 <u4 <f4 >f4 <f8 >f8 <i8 <u8".split()


@pytest.mark.parametrize("dtype", [*DTYPES, "?", "<f2", "<U5", "<c16"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", "CF")
def test_npy_equals_numpy_load(tmp_path, dtype, shape, order):
  path, values = tmp_path / "a.npy", np.arange(np.prod(shape, dtype=int)).reshape(shape)
  np.save(path, np.asarray(values.astype(dtype), order=order))
  if dtype == "<c16":
    with pytest.raises(InvalidInputError, match=r"a\.npy must hold numbers or text"):
      read_npy(path)
    return
  np.testing.assert_array_equal(read_npy(path), np.load(path), strict=True)


def test_npz_equals_saved_arrays(tmp_path):
  arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **arrays)
    loaded = read_npz(tmp_path / "a.npz")
    assert loaded.keys() == arrays.keys()
    for name in arrays:
      np.testing.assert_array_equal(loaded[name], arrays[name], strict=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_cells_equal_scipy_loadmat(tmp_path, compressed):
  """Cells of each dtype and shape are read, other variables are left out."""
  rng, path = np.random.default_rng(0), tmp_path / "a.mat"
  arrays = [
    rng.integers(0, 99, shape).astype(np.dtype(dtype).newbyteorder("="))
    for dtype in DTYPES
    for shape in ((2, 3), (1, 1), (0, 4), (3, 1), (2, 3, 4))
  ]
  numeric = np.empty((1, len(arrays)), object)
  numeric[0] = arrays
  mixed = np.empty((1, 3), object)
  mixed[0, 0], mixed[0, 1], mixed[0, 2] = "text", np.array([1j]), np.ones((2, 2))
  variables = {"numeric": numeric, "matrix": np.eye(3), "mixed": mixed, "s": {"b": 1}}
  variables |= {"text": "c", "not_requested": numeric}
  scipy.io.savemat(path, variables, do_compression=compressed)
  cells = read_cells(path, ["numeric", "mixed", "matrix", "missing"])
  assert cells.keys() == {"numeric", "mixed"}
  expected = scipy.io.loadmat(path)["numeric"].ravel()
  for actual_cell, expected_cell in zip(cells["numeric"], expected, strict=True):
    np.testing.assert_array_equal(actual_cell, expected_cell, strict=True)
  assert cells["mixed"][:2] == [None, None]
  np.testing.assert_array_equal(cells["mixed"][2], np.ones((2, 2)))


def test_truncated_mat_file_raises(tmp_path):
  """At every length but that of the header, which is an empty file."""
  stream, path = io.BytesIO(), tmp_path / "a.mat"
  cells = np.empty((1, 2), object)
  cells[0] = [np.eye(2), np.ones((1, 3))]
  scipy.io.savemat(stream, {"a": cells})
  data = stream.getvalue()
  for length in range(len(data)):
    path.write_bytes(data[:length])
    if length == 128:
      assert read_cells(path, "a") == {}
    else:
      with pytest.raises(InvalidInputError, match=r"a\.mat cannot be read as a MATLAB file"):
        read_cells(path, "a")

"""Safetensors files: round trips; damaged files and pickles raise."""

import ml_dtypes
import numpy as np
import pytest

from rnnjax.interop import safetensors
from rnnjax.interop.torch import from_torch
from rnnjax.types import InvalidInputError


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int64])
def test_arrays_round_trip(dtype, tmp_path):
  """Values, shapes and dtypes are kept, also of a transposed array."""
  path, matrix = str(tmp_path / "weights.safetensors"), np.arange(6).reshape(2, 3).astype(dtype)
  arrays = {"matrix": matrix, "transposed": matrix.T, "scalar": matrix[1, 2]}
  safetensors.save(path, arrays)
  loaded = safetensors.load(path)
  for name, expected in arrays.items():
    assert loaded[name].dtype == dtype
    np.testing.assert_array_equal(loaded[name], expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_become_float32(dtype, tmp_path):
  """Parameters become float32, in which the sum of two biases is not rounded."""
  path = str(tmp_path / "half.safetensors")
  biases = {"bias_ih_l0": np.full(8, 1, dtype), "bias_hh_l0": np.full(8, 2**-12, dtype)}
  weights = {"weight_ih_l0": np.ones((8, 3), dtype), "weight_hh_l0": np.ones((8, 2), dtype)}
  safetensors.save(path, weights | biases)
  b = from_torch(safetensors.load(path))["layer_0"]["forward"]["b"]
  np.testing.assert_array_equal(b, np.full(8, 1 + 2**-12, np.float32))


@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
def test_pickle_files_raise(ending, tmp_path):
  """The message contains the line of code that converts the file."""
  path = tmp_path / f"model.{ending}"
  message = r"any code .*save_file\(torch.load\('model.*\), 'model.saf"
  with pytest.raises(InvalidInputError, match=message):
    safetensors.load(str(path))
  with pytest.raises(InvalidInputError, match=message):
    safetensors.save(str(path), {})
  assert not path.exists()


@pytest.mark.parametrize(
  "change",
  [
    lambda data: b"",
    lambda data: data[:-3],
    lambda data: data + b"xx",
    lambda data: data[:20],
    lambda data: b"PK\x03\x04" + data,
    lambda data: data.replace(b"[2,3]", b"[9,9]"),
  ],
  ids=["empty", "cut", "longer", "header cut", "zip", "size"],
)
def test_corrupt_file_raises(change, tmp_path):
  path = tmp_path / "weights.safetensors"
  safetensors.save(str(path), {"weight": np.ones((2, 3), np.float32)})
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(
    InvalidInputError, match=r"weights.safetensors cannot be read: .*download whole"
  ):
    safetensors.load(str(path))


def test_unsupported_path_or_dtype_raises(tmp_path):
  path = str(tmp_path / "weights.safetensors")
  with pytest.raises(InvalidInputError, match=r"cannot be read: .*No such file"):
    safetensors.load(path)
  with pytest.raises(InvalidInputError, match=r"cannot be written: .*dtype"):
    safetensors.save(path, {"w": np.array(["x"])})
  with pytest.raises(InvalidInputError, match="cannot be written"):
    safetensors.save(str(tmp_path / "no folder" / "w.safetensors"), {"w": np.ones(2)})
  safetensors.save(path, {"w": np.ones(2, ml_dtypes.float8_e5m2)})
  with pytest.raises(InvalidInputError, match=r"cannot be read: .*float8_e5m2"):
    safetensors.load(path)

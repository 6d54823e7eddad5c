"""Pixel sequences: idx files, views of an image, the MLP equivalence, and a training run."""

import gzip
import struct

import jax
import numpy as np
import pytest

from experiments import digits as experiment
from experiments.digits import Config
from experiments.pixel_sequences import data as digits_data
from rnnjax.types import InvalidInputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (36, 2, 3), np.uint8)
LABELS = np.arange(36, dtype=np.uint8) % 3
NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx_bytes(array, type_code=8):
  """Return an array in idx format: two zeros, type, number of axes, big-endian sizes, the data."""
  return struct.pack(f">HBB{array.ndim}I", 0, type_code, array.ndim, *array.shape) + array.tobytes()


def write_idx_files(
  folder, arrays=(IMAGES, LABELS, IMAGES[:6], LABELS[:6]), pack=bytes, ending="-ubyte"
):
  folder.mkdir(exist_ok=True)
  for name, array in zip(NAMES, arrays):
    (folder / f"{name}{ending}").write_bytes(pack(idx_bytes(array)))


def test_class_only_in_validation_is_counted(tmp_path):
  write_idx_files(tmp_path, (IMAGES, np.arange(36, dtype=np.uint8), IMAGES[:6], LABELS[:6]))
  assert digits_data.load(data_dir=str(tmp_path)).num_classes == 36


@pytest.mark.parametrize("ending", ["-ubyte", "-ubyte.gz"])
def test_idx_files_round_trip(tmp_path, ending):
  """Images are scaled to [0, 1]; the last twelfth of the training images is for validation."""
  write_idx_files(tmp_path, pack=gzip.compress if ending.endswith("gz") else bytes, ending=ending)
  data = digits_data.load(data_dir=str(tmp_path))
  splits = (
    (data.train, IMAGES[:33], LABELS[:33]),
    (data.valid, IMAGES[33:], LABELS[33:]),
    (data.test, IMAGES[:6], LABELS[:6]),
  )
  for split, images, labels in splits:
    np.testing.assert_allclose(255 * split.images, images, rtol=1e-6)
    np.testing.assert_array_equal(split.labels, labels)
  assert data.num_classes == 10


@pytest.mark.parametrize(
  "name, content, message",
  [
    (
      NAMES[0],
      idx_bytes(IMAGES)[:-1],
      r"train-images.* must contain 216 bytes .*contains 215. Was it cut",
    ),
    (NAMES[0], idx_bytes(IMAGES) + b"0", "contains 217"),
    (NAMES[0], idx_bytes(LABELS), "3 axes .* begin with 00 00 08 03; it begins with 00 00 08 01"),
    (
      NAMES[1],
      idx_bytes(LABELS, type_code=13),
      "begin with 00 00 08 01; it begins with 00 00 0d 01",
    ),
    (NAMES[1], b"", "it begins with nothing"),
    (NAMES[1], idx_bytes(LABELS)[:6], "it begins with 00 00 08 01"),
    (NAMES[1], idx_bytes(LABELS[:-1]), "they contain 36 images and 35 labels"),
    (
      NAMES[2],
      idx_bytes(IMAGES[:6, :1]),
      r"of one size; .* \(2, 3\) in the training set and \(1, 3\)",
    ),
    (
      NAMES[3],
      idx_bytes(LABELS[:6] + 7),
      "t10k-labels.* label 7 does not occur in the training set",
    ),
  ],
)
def test_damaged_idx_file_raises(tmp_path, name, content, message):
  write_idx_files(tmp_path)
  (tmp_path / f"{name}-ubyte").write_bytes(content)
  with pytest.raises(InvalidInputError, match=message):
    digits_data.load(data_dir=str(tmp_path))


def test_missing_or_truncated_files_raise(tmp_path):
  with pytest.raises(InvalidInputError, match="must be a folder or a"):
    digits_data.load(data_dir=str(tmp_path / "nowhere"))
  with pytest.raises(InvalidInputError, match=r"train-images-idx3-ubyte.* it contains \[\]"):
    digits_data.load(data_dir=str(tmp_path))
  write_idx_files(tmp_path, pack=lambda data: gzip.compress(data)[:-9], ending="-ubyte.gz")
  with pytest.raises(
    InvalidInputError, match=r"train-images-idx3-ubyte\.gz cannot be read to its end"
  ):
    digits_data.load(data_dir=str(tmp_path))
  with pytest.raises(InvalidInputError, match="must be a folder"):
    digits_data.load("files")


def test_views_on_small_image():
  image = np.array([[[1, 2, 3], [4, 5, 6]]])
  assert digits_data.to_sequences(image, "rows").tolist() == [[[1, 2, 3], [4, 5, 6]]]
  assert digits_data.to_sequences(image, "pixels").tolist() == [[[1], [2], [3], [4], [5], [6]]]
  assert digits_data.to_sequences(image, "whole").tolist() == [[[1, 2, 3, 4, 5, 6]]]


def test_pixel_permutation_is_shared_by_all_images():
  """The order is a permutation that depends on the seed only."""
  numbered = np.arange(12).reshape(1, 3, 4) + 100 * np.arange(5)[:, None, None]
  permuted = digits_data.to_sequences(numbered, "permuted", 1)[..., 0]
  order = permuted[0]
  assert sorted(order) == [*range(12)] and [*order] != [*range(12)]
  np.testing.assert_array_equal(permuted, order + 100 * np.arange(5)[:, None])
  np.testing.assert_array_equal(permuted, digits_data.to_sequences(numbered, "permuted", 1)[..., 0])
  assert (permuted != digits_data.to_sequences(numbered, "permuted", 2)[..., 0]).any()


def test_whole_image_view_equals_mlp():
  """Two tanh(x W + b) layers, then the output layer."""
  config = Config(view="whole", cell="vanilla", num_layers=2, hidden_size=5)
  model = experiment.build(config, 3)
  xs, lengths = RNG.normal(size=(1, 4, 6)).astype(np.float32), np.ones(4, int)
  params = model.init(jax.random.key(0), xs, lengths)["params"]
  layers = [params["encoder"][f"layer_{n}"]["forward"] for n in range(2)]
  h = xs[0]
  for layer in layers:
    h = np.tanh(h @ layer["W"] + layer["b"])
  logits = h @ params["logits"]["kernel"] + params["logits"]["bias"]
  ours = model.apply({"params": params}, xs, lengths)
  np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)


def test_prefix_predictions_ignore_later_steps():
  model = experiment.build(Config(hidden_size=5), 3)
  xs = RNG.normal(size=(6, 2, 4)).astype(np.float32)
  params = model.init(jax.random.key(0), xs, np.full(2, 6))["params"]
  for t in (1, 4):
    expected = jax.nn.softmax(model.apply({"params": params}, xs[:t], np.full(2, t)))
    changed = np.concatenate([xs[:t], RNG.normal(size=(6 - t, 2, 4))]).astype(np.float32)
    np.testing.assert_allclose(
      experiment.probs_after_steps(model, params, changed, t), expected, rtol=1e-5
    )


def test_run_scores_and_figures(tmp_path):
  """Rows of the embedded digits."""
  config = Config(
    dataset="embedded", batch_size=32, learning_rate=0.01, epochs=5, workdir=str(tmp_path / "run")
  )
  scores = experiment.run(config)
  assert scores["test/accuracy"] > 0.8
  assert scores["dataset"] == "embedded rows"
  assert {path.name for path in (tmp_path / "run/figures").iterdir()} == {
    "accuracy.png",
    "beliefs.png",
  }

"""Action segmentation: generated recipes, files of 50 Salads, folds, plots, and a training run."""

import numpy as np
import pytest
import scipy.io
from matplotlib import colormaps, image

from experiments import video as experiment
from experiments.action_segmentation import data as video_data
from experiments.action_segmentation.plots import plot_timelines
from experiments.action_segmentation.segment_metrics import to_segments
from experiments.video import Config
from rnnjax.types import InvalidInputError


def random_fold(rng, num_videos=3, K=4):
  """Return videos whose labels are the classes with the highest scores."""
  videos = []
  for _ in range(num_videos):
    labels = np.repeat(rng.integers(0, K, 4), 3)
    scores = np.eye(K)[labels] + 0.1 * rng.normal(size=(12, K))
    videos.append(video_data.Video(scores.astype(np.float32), labels, labels))
  return videos


def write_mat(path, fold, **changes):
  """Write the MATLAB file of a fold: cells of [T, K] and [1, T]. `changes` replace variables."""

  def cells(arrays):
    cell_array = np.empty((1, len(arrays)), object)
    for n, array in enumerate(arrays):
      cell_array[0, n] = array
    return cell_array

  variables = {
    "S": cells([video.scores for video in fold]),
    "Y": cells([video.labels[None] for video in fold]),
    "P": cells([video.predictions[None] for video in fold]),
  }
  variables |= changes
  scipy.io.savemat(path, {name: value for name, value in variables.items() if value is not None})


@pytest.fixture
def salads_dir(tmp_path):
  """A folder with the files of two folds of three videos, and these folds."""
  rng = np.random.default_rng(0)
  folds = [random_fold(rng), random_fold(rng)]
  for n, fold in enumerate(folds, 1):
    write_mat(tmp_path / f"salads_mid_split{n}.mat", fold)
  return tmp_path, folds


def test_synthetic_recipe_order():
  """Each object is taken (1, 2, 3), then put back (4, 5, 6); both have the same mean scores."""
  rng = np.random.default_rng(0)
  videos = [video_data.generate_recipe(rng) for _ in range(100)]
  for video in videos:
    order = [segment.label for segment in to_segments(video.labels, 0)]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert all(order.index(k) < order.index(k + 3) for k in (1, 2, 3))
  scores = np.concatenate([video.scores for video in videos])
  labels = np.concatenate([video.labels for video in videos])
  for k in (1, 2, 3):
    means = [scores[labels == label].mean(0) for label in (k, k + 3)]
    np.testing.assert_allclose(means[0], means[1], atol=0.1)


def test_mat_files_round_trip(salads_dir):
  folder, folds = salads_dir
  data = video_data.load(data_dir=str(folder))
  assert data.num_classes == 4
  for loaded_fold, fold in zip(data.folds, folds, strict=True):
    for loaded_video, video in zip(loaded_fold, fold, strict=True):
      for a, b in zip(loaded_video, video):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"P": None}, r"split2\.mat must contain the cell arrays Y, S and P; it contains \['S', 'Y'\]"),
    (
      {"Y": np.empty((1, 0), object)},
      r"must have the same number of cells.* got \[3, 0, 3\]",
    ),
    ({"labels": np.zeros(11, int)}, r"split2\.mat, video 1 must have .*got \(12, 4\), \(11,\)"),
    ({"labels": np.full(12, 4)}, "video 1: Y must be integers from 0 to K − 1 = 3"),
    ({"labels": np.full(12, 0.5)}, "video 1: Y must be integers"),
    ({"scores": np.full((12, 4), np.nan)}, "video 1: the scores S must be finite"),
    ({"scores": np.zeros((12, 5))}, r"same number of classes; got \{4, 5\}"),
  ],
  ids=["no P", "no Y", "short", "too large", "not integer", "nan", "classes"],
)
def test_malformed_file_raises(salads_dir, changes, message):
  folder, (_, other) = salads_dir
  fields = {name: value for name, value in changes.items() if name in video_data.Video._fields}
  rest = {name: value for name, value in changes.items() if name not in fields}
  write_mat(folder / "salads_mid_split2.mat", [other[0]._replace(**fields), *other[1:]], **rest)
  with pytest.raises(InvalidInputError, match=message):
    video_data.load(data_dir=str(folder))


def test_missing_or_damaged_files_raise(salads_dir):
  folder, _ = salads_dir
  with pytest.raises(
    InvalidInputError, match=r"\*_eval_split1\.mat.* it contains \['salads_mid_split1"
  ):
    video_data.load(data_dir=str(folder), granularity="eval")
  valid_bytes = (folder / "salads_mid_split1.mat").read_bytes()
  for content in (b"", b"no matlab", valid_bytes[: len(valid_bytes) // 2]):
    (folder / "salads_mid_split1.mat").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"split1\.mat"):
      video_data.load(data_dir=str(folder))
  with pytest.raises(InvalidInputError, match="must be a folder"):
    video_data.load("files")


def test_test_fold_is_not_in_training_set():
  """Every other video is either for training or for validation."""
  rng = np.random.default_rng(1)
  data = video_data.VideoFolds("x", 4, [random_fold(rng) for _ in range(4)])
  batches = experiment.prepare(Config(fold=2, batch_size=2), data)
  scores = {
    name: {xs.tobytes() for xs in getattr(batches, name).sequences}
    for name in ("train", "valid", "test")
  }
  folds = [{video.scores.tobytes() for video in fold} for fold in data.folds]
  assert scores["test"] == folds[1]
  assert scores["train"] | scores["valid"] == folds[0] | folds[2] | folds[3]
  assert not scores["train"] & scores["valid"] and scores["valid"]


def test_single_training_video_raises():
  """It would be needed for training and for validation."""
  rng = np.random.default_rng(1)
  data = video_data.VideoFolds("x", 4, [random_fold(rng, 1), random_fold(rng, 1)])
  with pytest.raises(
    InvalidInputError, match="must have at least two videos outside the test fold; it has 1"
  ):
    experiment.prepare(Config(fold=2, batch_size=2), data)


def test_split_zero_averages_all_splits(salads_dir, monkeypatch):
  """Each fold is the test set once, with a run directory of its own."""
  folder, _ = salads_dir
  calls = []

  def fake_train_fold(config, data, model, task):
    calls.append((config.fold, config.workdir))
    labels = [video.labels for video in data.folds[config.fold - 1]]
    return {"test/accuracy": config.fold / 10, "parameters": 7}, labels

  monkeypatch.setattr(experiment, "train_fold", fake_train_fold)
  workdir = folder / "run"
  workdir.mkdir()
  scores = experiment.run(Config(fold=0, data_dir=str(folder), workdir=str(workdir)))
  assert scores["test/accuracy"] == pytest.approx((0.1 + 0.2) / 2)
  assert calls == [(1, str(workdir / "split_1")), (2, str(workdir / "split_2"))]
  assert experiment.run(Config(fold=2, data_dir=str(folder)))["test/accuracy"] == 0.2
  with pytest.raises(InvalidInputError, match="--fold must be 1 to 2, or 0 for all folds; got 3"):
    experiment.run(Config(fold=3, data_dir=str(folder)))


def test_synthetic_recipes_are_learned(tmp_path):
  """The accuracy is higher than a model without long memory can reach: half of the actions."""
  config = Config(
    dataset="embedded",
    hidden_size=32,
    epochs=8,
    learning_rate=0.02,
    crf=False,
    workdir=str(tmp_path),
  )
  scores = experiment.run(config)
  assert scores["test/accuracy"] > 0.75 > scores["input/accuracy"] + 0.3
  assert scores["test/edit"] > scores["input/edit"]
  assert (tmp_path / "figures/timelines.png").exists()


def test_timeline_plot_colors(tmp_path):
  """Each label has its color, in order; the background is white."""
  path = tmp_path / "strips.png"
  labels = np.repeat([1, 0, 2], 20)
  plot_timelines(path, [("one", {"truth": labels, "predicted": labels})], 3)
  pixels = image.imread(path)[..., :3]
  shades = colormaps["tab20"].colors
  positions = [
    np.nonzero(np.abs(pixels - shade).max(-1) < 0.01) for shade in (shades[0], shades[2])
  ]
  (left_rows, left), (right_rows, right) = positions
  assert len(left) and len(right) and left.max() < right.min()
  between = pixels[left_rows.min() + 1, left.max() + 5 : right.min() - 5]
  assert (between == 1).all() and right_rows.max() == left_rows.max()
  with pytest.raises(InvalidInputError, match="equally long"):
    plot_timelines(path, [("one", {"truth": labels, "predicted": labels[1:]})], 3)

"""Videos: generated recipes, the format of 50 Salads, splits, strips of colours, and a run."""

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


def random_fold(draw, videos=3, K=4):
  """Videos whose labels are what the scores say."""
  made = []
  for _ in range(videos):
    labels = np.repeat(draw.integers(0, K, 4), 3)
    scores = np.eye(K)[labels] + 0.1 * draw.normal(size=(12, K))
    made.append(video_data.Video(scores.astype(np.float32), labels, labels))
  return made


def write_mat(path, fold, **changes):
  """As MATLAB files hold them: cells of [T, K] and [1, T]."""

  def cells(arrays):
    made = np.empty((1, len(arrays)), object)
    for n, array in enumerate(arrays):
      made[0, n] = array
    return made

  held = {"S": cells([one.scores for one in fold])}
  held |= {"Y": cells([one.labels[None] for one in fold])}
  held |= {"P": cells([one.predictions[None] for one in fold])} | changes
  scipy.io.savemat(path, {name: value for name, value in held.items() if value is not None})


@pytest.fixture
def salads_dir(tmp_path):
  """A folder of two splits of three videos, and what it holds."""
  draw = np.random.default_rng(0)
  folds = [random_fold(draw), random_fold(draw)]
  for n, one in enumerate(folds, 1):
    write_mat(tmp_path / f"salads_mid_split{n}.mat", one)
  return tmp_path, folds


def test_synthetic_recipe_order():
  """1, 2, 3 once each, then 4, 5, 6 of the same thing; both look alike."""
  draw = np.random.default_rng(0)
  made = [video_data.generate_recipe(draw) for _ in range(100)]
  for one in made:
    order = [s.label for s in to_segments(one.labels, 0)]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert all(order.index(k) < order.index(k + 3) for k in (1, 2, 3))
  scores = np.concatenate([one.scores for one in made])
  labels = np.concatenate([one.labels for one in made])
  for k in (1, 2, 3):
    means = [scores[labels == label].mean(0) for label in (k, k + 3)]
    np.testing.assert_allclose(means[0], means[1], atol=0.1)


def test_mat_files_round_trip(salads_dir):
  folder, folds = salads_dir
  data = video_data.load(data_dir=str(folder))
  assert data.num_classes == 4
  for ours, theirs in zip(data.folds, folds, strict=True):
    for one, other in zip(ours, theirs, strict=True):
      for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"P": None}, r"split2\.mat must hold Y, S and P.* it holds \['S', 'Y'\]"),
    ({"Y": np.empty((1, 0), object)}, r"as many S, Y and P; it holds \[3, 0, 3\]"),
    ({"labels": np.zeros(11, int)}, r"split2\.mat, video 1 must have .*got \(12, 4\), \(11,\)"),
    ({"labels": np.full(12, 4)}, "video 1: Y must be integers from 0 below K = 4"),
    ({"labels": np.full(12, 0.5)}, "video 1: Y must be integers"),
    ({"scores": np.full((12, 4), np.nan)}, "video 1: the scores S must be finite"),
    ({"scores": np.zeros((12, 5))}, r"as many classes; got \{4, 5\}"),
  ],
  ids=["no P", "no Y", "short", "too large", "halves", "nan", "wide"],
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
    InvalidInputError, match=r"\*_eval_split1\.mat.* it holds \['salads_mid_split1"
  ):
    video_data.load(data_dir=str(folder), granularity="eval")
  whole = (folder / "salads_mid_split1.mat").read_bytes()
  for content in (b"", b"no matlab", whole[: len(whole) // 2]):
    (folder / "salads_mid_split1.mat").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"split1\.mat"):
      video_data.load(data_dir=str(folder))
  with pytest.raises(InvalidInputError, match="must be a folder"):
    video_data.load("files")


def test_test_fold_is_not_in_training_set():
  """Each other video is learnt from or validates."""
  draw = np.random.default_rng(1)
  data = video_data.VideoFolds("x", 4, [random_fold(draw) for _ in range(4)])
  parts = experiment.prepare(Config(fold=2, batch_size=2), data)
  drawn = {
    name: {one.tobytes() for one in getattr(parts, name).sequences}
    for name in ("train", "valid", "test")
  }
  own = [{one.scores.tobytes() for one in fold} for fold in data.folds]
  assert drawn["test"] == own[1]
  assert drawn["train"] | drawn["valid"] == own[0] | own[2] | own[3]
  assert not drawn["train"] & drawn["valid"] and drawn["valid"]


def test_single_training_video_raises():
  """It would have to be learnt from and to validate."""
  draw = np.random.default_rng(1)
  data = video_data.VideoFolds("x", 4, [random_fold(draw, 1), random_fold(draw, 1)])
  with pytest.raises(
    InvalidInputError, match="must have two videos beside those that test; it has 1"
  ):
    experiment.prepare(Config(fold=2, batch_size=2), data)


def test_split_zero_averages_all_splits(salads_dir, monkeypatch):
  """Each tests once, with the others to learn from, in a folder of its own."""
  folder, _ = salads_dir
  seen = []

  def learn(config, data, model, task):
    seen.append((config.fold, config.workdir))
    found = [one.labels for one in data.folds[config.fold - 1]]
    return {"test/accuracy": config.fold / 10, "parameters": 7}, found

  monkeypatch.setattr(experiment, "train_fold", learn)
  out = folder / "run"
  out.mkdir()
  scores = experiment.run(Config(fold=0, data_dir=str(folder), workdir=str(out)))
  assert scores["test/accuracy"] == pytest.approx((0.1 + 0.2) / 2)
  assert seen == [(1, str(out / "split_1")), (2, str(out / "split_2"))]
  assert experiment.run(Config(fold=2, data_dir=str(folder)))["test/accuracy"] == 0.2
  with pytest.raises(InvalidInputError, match="--fold must be one of 2, or 0 for all; got 3"):
    experiment.run(Config(fold=3, data_dir=str(folder)))


def test_synthetic_recipes_are_learned(tmp_path):
  """Beyond what single frames, and even their neighbours, can tell: half of the actions."""
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
  """Each label in its colour, in its order; the background is white."""
  path = tmp_path / "strips.png"
  labels = np.repeat([1, 0, 2], 20)
  plot_timelines(path, [("one", {"truth": labels, "found": labels})], 3)
  drawn = image.imread(path)[..., :3]
  shades = colormaps["tab20"].colors
  places = [np.nonzero(np.abs(drawn - shade).max(-1) < 0.01) for shade in (shades[0], shades[2])]
  (one, left), (other, right) = places
  assert len(left) and len(right) and left.max() < right.min()
  between = drawn[one.min() + 1, left.max() + 5 : right.min() - 5]
  assert (between == 1).all() and other.max() == one.max()
  with pytest.raises(InvalidInputError, match="equally long"):
    plot_timelines(path, [("one", {"truth": labels, "found": labels[1:]})], 3)

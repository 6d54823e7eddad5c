"""Videos: generated recipes, the format of 50 Salads, splits, strips of colours, and a run."""

import numpy as np
import pytest
import scipy.io
from matplotlib import colormaps, image

from experiments import video as experiment
from experiments.action_segmentation import data as video_data
from experiments.action_segmentation.plots import timelines
from experiments.action_segmentation.segment_metrics import segments
from experiments.video import Config
from rnnjax.types import BadInput


def fold(draw, videos=3, K=4):
  """Videos whose labels are what the scores say."""
  made = []
  for _ in range(videos):
    labels = np.repeat(draw.integers(0, K, 4), 3)
    scores = np.eye(K)[labels] + 0.1 * draw.normal(size=(12, K))
    made.append(video_data.Video(scores.astype(np.float32), labels, labels))
  return made


def save(path, fold, **changes):
  """As MATLAB files hold them: cells of [T, K] and [1, T]."""

  def cells(arrays):
    made = np.empty((1, len(arrays)), object)
    for n, array in enumerate(arrays):
      made[0, n] = array
    return made

  held = {"S": cells([one.scores for one in fold])}
  held |= {"Y": cells([one.labels[None] for one in fold])}
  held |= {"P": cells([one.said[None] for one in fold])} | changes
  scipy.io.savemat(path, {name: value for name, value in held.items() if value is not None})


@pytest.fixture
def salads(tmp_path):
  """A folder of two splits of three videos, and what it holds."""
  draw = np.random.default_rng(0)
  folds = [fold(draw), fold(draw)]
  for n, one in enumerate(folds, 1):
    save(tmp_path / f"salads_mid_split{n}.mat", one)
  return tmp_path, folds


def test_a_thing_is_taken_and_then_put_back():
  """1, 2, 3 once each, then 4, 5, 6 of the same thing; both look alike."""
  draw = np.random.default_rng(0)
  made = [video_data.recipe(draw) for _ in range(100)]
  for one in made:
    order = [s.label for s in segments(one.labels, 0)]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert all(order.index(k) < order.index(k + 3) for k in (1, 2, 3))
  scores = np.concatenate([one.scores for one in made])
  labels = np.concatenate([one.labels for one in made])
  for k in (1, 2, 3):
    means = [scores[labels == label].mean(0) for label in (k, k + 3)]
    np.testing.assert_allclose(means[0], means[1], atol=0.1)


def test_what_was_written_is_read(salads):
  folder, folds = salads
  data = video_data.load(data_dir=str(folder))
  assert data.classes == 4
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
def test_a_malformed_file_is_named(salads, changes, message):
  folder, (_, other) = salads
  fields = {name: value for name, value in changes.items() if name in video_data.Video._fields}
  rest = {name: value for name, value in changes.items() if name not in fields}
  save(folder / "salads_mid_split2.mat", [other[0]._replace(**fields), *other[1:]], **rest)
  with pytest.raises(BadInput, match=message):
    video_data.load(data_dir=str(folder))


def test_missing_and_damaged_files_are_named(salads):
  folder, _ = salads
  with pytest.raises(BadInput, match=r"\*_eval_split1\.mat.* it holds \['salads_mid_split1"):
    video_data.load(data_dir=str(folder), level="eval")
  whole = (folder / "salads_mid_split1.mat").read_bytes()
  for content in (b"", b"no matlab", whole[: len(whole) // 2]):
    (folder / "salads_mid_split1.mat").write_bytes(content)
    with pytest.raises(BadInput, match=r"split1\.mat"):
      video_data.load(data_dir=str(folder))
  with pytest.raises(BadInput, match="must be a folder"):
    video_data.load("files")


def test_the_fold_that_tests_is_not_learnt():
  """Each other video is learnt from or validates."""
  draw = np.random.default_rng(1)
  data = video_data.Folds("x", 4, [fold(draw) for _ in range(4)])
  parts = experiment.prepare(Config(split=2, batch=2), data)
  drawn = {
    name: {one.tobytes() for one in getattr(parts, name).sequences}
    for name in ("train", "valid", "test")
  }
  own = [{one.scores.tobytes() for one in fold} for fold in data.folds]
  assert drawn["test"] == own[1]
  assert drawn["train"] | drawn["valid"] == own[0] | own[2] | own[3]
  assert not drawn["train"] & drawn["valid"] and drawn["valid"]


def test_one_video_beside_those_that_test_is_too_few():
  """It would have to be learnt from and to validate."""
  draw = np.random.default_rng(1)
  data = video_data.Folds("x", 4, [fold(draw, 1), fold(draw, 1)])
  with pytest.raises(BadInput, match="must have two videos beside those that test; it has 1"):
    experiment.prepare(Config(split=2, batch=2), data)


def test_all_splits_are_the_mean_of_each(salads, monkeypatch):
  """Each tests once, with the others to learn from, in a folder of its own."""
  folder, _ = salads
  seen = []

  def learn(config, data, model, task):
    seen.append((config.split, config.out))
    found = [one.labels for one in data.folds[config.split - 1]]
    return {"test/accuracy": config.split / 10, "parameters": 7}, found

  monkeypatch.setattr(experiment, "learn", learn)
  out = folder / "run"
  out.mkdir()
  scores = experiment.run(Config(split=0, data_dir=str(folder), out=str(out)))
  assert scores["test/accuracy"] == pytest.approx((0.1 + 0.2) / 2)
  assert seen == [(1, str(out / "split_1")), (2, str(out / "split_2"))]
  assert experiment.run(Config(split=2, data_dir=str(folder)))["test/accuracy"] == 0.2
  with pytest.raises(BadInput, match="--split must be one of 2, or 0 for all; got 3"):
    experiment.run(Config(split=3, data_dir=str(folder)))


def test_recipes_are_learnt(tmp_path):
  """Beyond what single frames, and even their neighbours, can tell: half of the actions."""
  config = Config(dataset="embedded", hidden=32, epochs=8, rate=0.02, crf=False, out=str(tmp_path))
  scores = experiment.run(config)
  assert scores["test/accuracy"] > 0.75 > scores["input/accuracy"] + 0.3
  assert scores["test/edit"] > scores["input/edit"]
  assert (tmp_path / "figures/timelines.png").exists()


def test_strips_of_colours(tmp_path):
  """Each label in its colour, in its order; the background is white."""
  path = tmp_path / "strips.png"
  labels = np.repeat([1, 0, 2], 20)
  timelines(path, [("one", {"truth": labels, "found": labels})], 3)
  drawn = image.imread(path)[..., :3]
  shades = colormaps["tab20"].colors
  places = [np.nonzero(np.abs(drawn - shade).max(-1) < 0.01) for shade in (shades[0], shades[2])]
  (one, left), (other, right) = places
  assert len(left) and len(right) and left.max() < right.min()
  between = drawn[one.min() + 1, left.max() + 5 : right.min() - 5]
  assert (between == 1).all() and other.max() == one.max()
  with pytest.raises(BadInput, match="equally long"):
    timelines(path, [("one", {"truth": labels, "found": labels[1:]})], 3)

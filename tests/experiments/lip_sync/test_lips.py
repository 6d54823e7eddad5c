"""Lip sync: recordings, the delay of the targets, the ridge baseline, and a training run."""

import functools
import json

import numpy as np
import pytest
from scipy.io import wavfile

from experiments import lips
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots
from experiments.lip_sync.data import FaceDataset, FaceRecording
from experiments.lips import Config
from rnnjax.types import InvalidInputError

FPS, RATE = 30, 16_000


def write_recording(folder, name, T=60, C=4, seconds=None):
  """Write a tone and a face of which only the channels 1 and 3 move; return the face."""
  rng = np.random.default_rng(len(name))
  seconds = seconds or T / FPS
  samples = np.sin(2 * np.pi * 440 * np.arange(int(RATE * seconds)) / RATE)
  wavfile.write(folder / f"{name}.wav", RATE, (9000 * samples).astype(np.int16))
  face = np.zeros((T, C))
  face[:, 1::2] = rng.random((T, len(range(1, C, 2))))
  np.save(folder / f"{name}.npy", face)
  return face


@pytest.fixture
def recordings_dir(tmp_path):
  for name in ("a", "b", "c"):
    write_recording(tmp_path, name, T=120)
  return tmp_path


def test_splits_and_constant_channels(recordings_dir):
  """The last recording is the test set; the ends of the others validate."""
  dataset = faces_data.load(data_dir=str(recordings_dir))
  assert dataset.channels == (1, 3)
  assert [recording.name for recording in dataset.test] == ["c"]
  expected = np.load(recordings_dir / "a.npy")[:, 1::2]
  np.testing.assert_allclose(dataset.train[0].face, expected[:102], rtol=1e-6)
  np.testing.assert_allclose(dataset.valid[0].face, expected[102:], rtol=1e-6)
  by_name = faces_data.load(data_dir=str(recordings_dir), test_recordings="a,c")
  assert [recording.name for recording in by_name.test] == ["a", "c"]
  assert [recording.name for recording in by_name.train] == ["b"]


def test_sound_frames_align_with_face_frames(tmp_path):
  """A click in frame 500 is in the features of frame 500, at 30 and at 25 frames per second."""
  for fps in (30, 25):
    samples = np.zeros(RATE * 24, np.int16)
    samples[int(RATE * 500.5 / fps)] = 30_000
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    wavfile.write(tmp_path / "b.wav", RATE, samples)
    for name in ("a", "b"):
      np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((24 * fps, 2)))
    (recording,) = faces_data.load(data_dir=str(tmp_path), fps=fps).test
    assert len(recording.audio_features) == 24 * fps
    assert recording.audio_features.sum(1).argmax() == 500


def test_invalid_recordings_raise(recordings_dir):
  """The message names the file and the likely cause."""
  load = functools.partial(faces_data.load, data_dir=str(recordings_dir))
  with pytest.raises(
    InvalidInputError, match="--test_recordings must name some, not all, of a, b, c; got 'd'"
  ):
    load(test_recordings="d")
  with pytest.raises(InvalidInputError, match="not all, of a, b, c"):
    load(test_recordings="a,b,c")
  with pytest.raises(
    InvalidInputError, match=r"lasts 100 frames at 25 per second, but .* has 120.*--fps"
  ):
    load(fps=25)
  write_recording(recordings_dir, "b", T=120, C=3)
  with pytest.raises(InvalidInputError, match=r"b\.npy must have 4 channels like a\.npy; it has 3"):
    load()
  face = write_recording(recordings_dir, "b", T=120)
  face[7, 1] = np.nan
  np.save(recordings_dir / "b.npy", face)
  with pytest.raises(InvalidInputError, match=r"b\.npy has a non-finite value in frame 7"):
    load()
  np.save(recordings_dir / "b.npy", face[0])
  with pytest.raises(
    InvalidInputError, match=r"b\.npy must be a numeric array \[T, C\]; it is float64 \(4,\)"
  ):
    load()
  write_recording(recordings_dir, "b", T=1, seconds=0.05)
  with pytest.raises(InvalidInputError, match=r"b\.wav and .*b\.npy must last at least two frames"):
    load()
  (recordings_dir / "b.npy").write_bytes(b"0.1,0.2")
  with pytest.raises(
    InvalidInputError, match=r"b\.npy cannot be read as an array that numpy\.save wrote"
  ):
    load()
  (recordings_dir / "b.npy").unlink()
  with pytest.raises(InvalidInputError, match=r"without a partner are \['b'\]"):
    load()


def test_two_frame_recording_gives_one_validation_frame(recordings_dir):
  write_recording(recordings_dir, "b", T=2)
  dataset = faces_data.load(data_dir=str(recordings_dir))
  assert [len(recording.face) for recording in dataset.train + dataset.valid] == [102, 1, 18, 1]


def test_constant_face_raises(tmp_path):
  for name in ("a", "b"):
    write_recording(tmp_path, name, C=1)
  with pytest.raises(InvalidInputError, match="no channel has a standard deviation above"):
    faces_data.load(data_dir=str(tmp_path))


@pytest.mark.parametrize("delays", ["-1", "2,", "x", "0,200"])
def test_invalid_delays_raise(delays):
  with pytest.raises(
    InvalidInputError, match="--delays must be like 0,4,8, each less than --max_train_length; got"
  ):
    lips.run(Config(delays=delays, batch_size=4))


def numbered_recording(T, name="a"):
  """Return a recording whose audio feature is t and whose channel is 10 t in frame t."""
  t = np.arange(T, dtype=np.float32)[:, None]
  return FaceRecording(name, t, 10 * t)


@pytest.mark.parametrize("delay", [0, 3])
def test_targets_are_shifted_by_delay(delay):
  recordings = [numbered_recording(40)], [numbered_recording(20)], [numbered_recording(20)]
  dataset = FaceDataset("numbered", (0,), *recordings)
  data = lips.prepare(Config(batch_size=4, max_train_length=16), dataset, delay)
  for batch, end in ((next(data.train.stream()), 39), (next(iter(data.test)), 19)):
    for b in np.flatnonzero(batch["weights"]):
      audio, face = (batch[name][: batch["lengths"][b], b, 0] for name in ("tokens", "face"))
      inside = (audio >= delay) & (audio < end)  # without the padded edges
      assert inside.sum() >= 10
      np.testing.assert_array_equal(face[inside], 10 * (audio[inside] - delay))


def test_frames_before_delay_are_masked():
  batch = {"lengths": np.array([5, 3]), "face": np.zeros((5, 2, 1), np.float32)}
  ys = np.arange(1.0, 11).reshape(5, 2, 1).astype(np.float32)
  counted = [ys[2, 0, 0], ys[3, 0, 0], ys[4, 0, 0], ys[2, 1, 0]]
  loss = lips.compute_metrics(ys, batch, 2)["loss"]
  assert loss.total == pytest.approx(sum(y**2 for y in counted))
  assert loss.weight == 4


def test_context_windows():
  """Windows do not cross recordings; a recording's edges are repeated."""
  windows = plots.context_windows([numbered_recording(3), numbered_recording(2)], 1, 2)
  expected = [[0, 0, 1, 2], [0, 1, 2, 2], [1, 2, 2, 2], [0, 0, 1, 1], [0, 1, 1, 1]]
  np.testing.assert_array_equal(windows, expected)


def test_linear_regression_recovers_linear_face():
  """The face is a weighted sum of audio features, one of them a frame ahead."""
  rng = np.random.default_rng(0)

  def linear_recording(name):
    audio = rng.normal(size=(800, 3))
    face = np.roll(audio[:, :2].sum(1), 2) + np.roll(audio[:, 2], -1)
    return FaceRecording(name, audio, face[:, None])

  splits = ([linear_recording(name)] for name in ("a", "b", "c"))
  dataset = FaceDataset("linear", (0,), *splits)
  (with_future,), (without_future,) = (
    plots.correlations(dataset.test[0].face, plots.ridge_predictions(dataset, future))
    for future in (1, 0)
  )
  assert with_future > 0.97
  assert without_future < 0.95


def test_correlations_equal_numpy():
  true, predicted = np.random.default_rng(0).normal(size=(2, 50, 4))
  true[:, 2] = 0.3  # constant
  predicted[:, 3] = 0.1
  r = plots.correlations(true, predicted)
  for c in (0, 1):
    assert r[c] == pytest.approx(np.corrcoef(true[:, c], predicted[:, c])[0, 1])
  assert np.isnan(r[2])
  assert r[3] == pytest.approx(0, abs=1e-9)


def test_delay_lowers_loss_on_synthetic_faces(tmp_path, monkeypatch):
  """The generated face moves before its audio, so the longer delay has the lower loss."""
  monkeypatch.setattr(
    faces_data,
    "_generate_recordings",
    functools.partial(faces_data._generate_recordings, num_recordings=8, T=240),
  )
  workdir = tmp_path / "run"
  scores = lips.run(
    Config(hidden_size=24, epochs=2, max_train_length=60, batch_size=8, workdir=str(workdir))
  )
  assert scores["delay"] == 8
  assert scores["valid/loss_delay_8"] < 0.8 * scores["valid/loss_delay_0"]
  assert scores["test/correlation"] > 0.5
  assert {file.name for file in (workdir / "figures").iterdir()} == {"curves.png", "face.gif"}
  saved = json.loads((workdir / "delay_8" / "config.json").read_text())
  assert saved["config"]["delays"] == "8"

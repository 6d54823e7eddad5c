"""Faces and voices: pairs of files, what the delay shifts, a linear regression, and a run."""

import functools
import json

import numpy as np
import pytest
from scipy.io import wavfile

from experiments import lips
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots as pictures
from experiments.lip_sync.data import FaceDataset, FaceRecording
from experiments.lips import Config
from rnnjax.types import InvalidInputError

FPS, RATE = 30, 16_000


def write_recording(folder, name, T=60, C=4, seconds=None):
  """A tone that swells and a face of which the channels 1 and 3 move."""
  draw = np.random.default_rng(len(name))
  seconds = seconds or T / FPS
  samples = np.sin(2 * np.pi * 440 * np.arange(int(RATE * seconds)) / RATE)
  wavfile.write(folder / f"{name}.wav", RATE, (9000 * samples).astype(np.int16))
  face = np.zeros((T, C))
  face[:, 1::2] = draw.random((T, len(range(1, C, 2))))
  np.save(folder / f"{name}.npy", face)
  return face


@pytest.fixture
def recordings_dir(tmp_path):
  for name in ("a", "b", "c"):
    write_recording(tmp_path, name, T=120)
  return tmp_path


def test_splits_and_constant_channels(recordings_dir):
  """The last is tested, the ends of the others choose, and what stands still is left out."""
  found = faces_data.load(data_dir=str(recordings_dir))
  assert found.channels == (1, 3)
  assert [one.name for one in found.test] == ["c"]
  true = np.load(recordings_dir / "a.npy")[:, 1::2]
  np.testing.assert_allclose(found.train[0].face, true[:102], rtol=1e-6)
  np.testing.assert_allclose(found.valid[0].face, true[102:], rtol=1e-6)
  named = faces_data.load(data_dir=str(recordings_dir), test_recordings="a,c")
  assert [one.name for one in named.test] == ["a", "c"]
  assert [one.name for one in named.train] == ["b"]


def test_sound_frames_align_with_face_frames(tmp_path):
  """A click in frame 500 at 30 a second is heard in frame 500, and 25 a second fit, too."""
  for fps in (30, 25):
    samples = np.zeros(RATE * 24, np.int16)
    samples[int(RATE * 500.5 / fps)] = 30_000
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    wavfile.write(tmp_path / "b.wav", RATE, samples)
    for name in ("a", "b"):
      np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((24 * fps, 2)))
    (take,) = faces_data.load(data_dir=str(tmp_path), fps=fps).test
    assert len(take.audio_features) == 24 * fps
    assert take.audio_features.sum(1).argmax() == 500


def test_invalid_recordings_raise(recordings_dir):
  """Each is named, with the likely cause."""
  load = lambda **how: faces_data.load(data_dir=str(recordings_dir), **how)
  with pytest.raises(
    InvalidInputError, match="--test_recordings must name some, not all, of a, b, c; got 'd'"
  ):
    load(test="d")
  with pytest.raises(InvalidInputError, match="not all, of a, b, c"):
    load(test="a,b,c")
  with pytest.raises(
    InvalidInputError, match=r"lasts 100 frames at 25 a second, and .* has 120.*--fps"
  ):
    load(fps=25)
  write_recording(recordings_dir, "b", T=120, C=3)
  with pytest.raises(
    InvalidInputError, match=r"b\.npy must have 4 channels as a\.npy has; it has 3"
  ):
    load()
  face = write_recording(recordings_dir, "b", T=120)
  face[7, 1] = np.nan
  np.save(recordings_dir / "b.npy", face)
  with pytest.raises(InvalidInputError, match=r"b\.npy .* no finite number in frame 7"):
    load()
  np.save(recordings_dir / "b.npy", face[0])
  with pytest.raises(
    InvalidInputError, match=r"b\.npy must be numbers \[T, C\]; it is float64 \(4,\)"
  ):
    load()
  write_recording(recordings_dir, "b", T=1, seconds=0.05)
  with pytest.raises(InvalidInputError, match=r"b\.wav and .*b\.npy must last two frames"):
    load()
  (recordings_dir / "b.npy").write_bytes(b"0.1,0.2")
  with pytest.raises(
    InvalidInputError, match=r"b\.npy cannot be read as an array that numpy\.save wrote"
  ):
    load()
  (recordings_dir / "b.npy").unlink()
  with pytest.raises(InvalidInputError, match=r"without their partner are \['b'\]"):
    load()


def test_two_frame_recording_gives_one_validation_frame(recordings_dir):
  write_recording(recordings_dir, "b", T=2)
  found = faces_data.load(data_dir=str(recordings_dir))
  assert [len(one.face) for one in found.train + found.valid] == [102, 1, 18, 1]


def test_constant_face_raises(tmp_path):
  for name in ("a", "b"):
    write_recording(tmp_path, name, C=1)
  with pytest.raises(InvalidInputError, match=r"no channel of .* moves"):
    faces_data.load(data_dir=str(tmp_path))


@pytest.mark.parametrize("delays", ["-1", "2,", "x", "0,200"])
def test_invalid_delays_raise(delays):
  with pytest.raises(
    InvalidInputError, match="--delays must be like 0,4,8, less than --max_train_length; got"
  ):
    lips.run(Config(delays=delays, batch_size=4))


def numbered_take(T, name="a"):
  """A recording of which frame t sounds like t and looks like 10 t."""
  t = np.arange(T, dtype=np.float32)[:, None]
  return FaceRecording(name, t, 10 * t)


@pytest.mark.parametrize("delay", [0, 3])
def test_targets_are_shifted_by_delay(delay):
  text = FaceDataset("made", (0,), [numbered_take(40)], [numbered_take(20)], [numbered_take(20)])
  data = lips.prepare(Config(batch_size=4, max_train_length=16), text, delay)
  for batch, end in ((next(data.train.stream()), 39), (next(iter(data.test)), 19)):
    for b in np.flatnonzero(batch["weights"]):
      heard, face = (batch[name][: batch["lengths"][b], b, 0] for name in ("tokens", "face"))
      inside = (heard >= delay) & (heard < end)  # not the repeated ends
      assert inside.sum() >= 10
      np.testing.assert_array_equal(face[inside], 10 * (heard[inside] - delay))


def test_frames_before_delay_are_masked():
  batch = {"lengths": np.array([5, 3]), "face": np.zeros((5, 2, 1), np.float32)}
  ys = np.arange(1.0, 11).reshape(5, 2, 1).astype(np.float32)
  live = [ys[2, 0, 0], ys[3, 0, 0], ys[4, 0, 0], ys[2, 1, 0]]
  found = lips.compute_metrics(ys, batch, 2)["loss"]
  assert found.total == pytest.approx(sum(y**2 for y in live))
  assert found.weight == 4


def test_context_windows():
  """Frame t beside its neighbours, of each recording by itself; its ends are repeated."""
  found = pictures.context_windows([numbered_take(3), numbered_take(2)], 1, 2)
  true = [[0, 0, 1, 2], [0, 1, 2, 2], [1, 2, 2, 2], [0, 0, 1, 1], [0, 1, 1, 1]]
  np.testing.assert_array_equal(found, true)


def test_linear_regression_recovers_linear_face():
  """What is a weighted sum of the frames around is found."""
  draw = np.random.default_rng(0)

  def take(name):
    heard = draw.normal(size=(800, 3))
    face = np.roll(heard[:, :2].sum(1), 2) + np.roll(heard[:, 2], -1)
    return FaceRecording(name, heard, face[:, None])

  text = FaceDataset("made", (0,), [take("a")], [take("b")], [take("c")])
  (heard,), (unheard,) = (
    pictures.correlations(text.test[0].face, pictures.ridge_predictions(text, future))
    for future in (1, 0)
  )
  assert heard > 0.97
  assert unheard < 0.95


def test_correlations_equal_numpy():
  draw = np.random.default_rng(0)
  true, found = draw.normal(size=(2, 50, 4))
  true[:, 2] = 0.3  # stands still
  found[:, 3] = 0.1
  r = pictures.correlations(true, found)
  for c in (0, 1):
    assert r[c] == pytest.approx(np.corrcoef(true[:, c], found[:, c])[0, 1])
  assert np.isnan(r[2])
  assert r[3] == pytest.approx(0, abs=1e-9)


def test_delay_lowers_loss_on_synthetic_faces(tmp_path, monkeypatch):
  """The generated face begins before its sound: who waits does better, and is chosen."""
  monkeypatch.setattr(
    faces_data,
    "_generate_recordings",
    functools.partial(faces_data._generate_recordings, num_recordings=8, T=240),
  )
  out = tmp_path / "run"
  scores = lips.run(
    Config(hidden_size=24, epochs=2, max_train_length=60, batch_size=8, workdir=str(out))
  )
  assert scores["delay"] == 8
  assert scores["valid/loss_delay_8"] < 0.8 * scores["valid/loss_delay_0"]
  assert scores["test/correlation"] > 0.5
  assert {file.name for file in (out / "figures").iterdir()} == {"curves.png", "face.gif"}
  kept = json.loads((out / "delay_8" / "config.json").read_text())
  assert kept["config"]["delays"] == "8"

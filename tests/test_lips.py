"""Faces and voices: pairs of files, what the delay shifts, a linear regression, and a run."""

import functools
import json

import numpy as np
import pytest
from scipy.io import wavfile

from experiments import lips
from experiments.lip_sync import data as faces_data
from experiments.lip_sync import plots as pictures
from experiments.lip_sync.data import Faces, Take
from experiments.lips import Config
from rnnjax.types import BadInput

FPS, RATE = 30, 16_000


def pair(folder, name, T=60, C=4, seconds=None):
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
def folder(tmp_path):
  for name in ("a", "b", "c"):
    pair(tmp_path, name, T=120)
  return tmp_path


def test_the_parts(folder):
  """The last is tested, the ends of the others choose, and what stands still is left out."""
  found = faces_data.load(data_dir=str(folder))
  assert found.channels == (1, 3)
  assert [one.name for one in found.test] == ["c"]
  true = np.load(folder / "a.npy")[:, 1::2]
  np.testing.assert_allclose(found.train[0].face, true[:102], rtol=1e-6)
  np.testing.assert_allclose(found.valid[0].face, true[102:], rtol=1e-6)
  named = faces_data.load(data_dir=str(folder), test="a,c")
  assert [one.name for one in named.test] == ["a", "c"]
  assert [one.name for one in named.train] == ["b"]


def test_sound_and_face_keep_step(tmp_path):
  """A click in frame 500 at 30 a second is heard in frame 500, and 25 a second fit, too."""
  for fps in (30, 25):
    samples = np.zeros(RATE * 24, np.int16)
    samples[int(RATE * 500.5 / fps)] = 30_000
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    wavfile.write(tmp_path / "b.wav", RATE, samples)
    for name in ("a", "b"):
      np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((24 * fps, 2)))
    (take,) = faces_data.load(data_dir=str(tmp_path), fps=fps).test
    assert len(take.heard) == 24 * fps
    assert take.heard.sum(1).argmax() == 500


def test_bad_pairs(folder):
  """Each is named, with the likely cause."""
  load = lambda **how: faces_data.load(data_dir=str(folder), **how)
  with pytest.raises(BadInput, match="--test must name some, not all, of a, b, c; got 'd'"):
    load(test="d")
  with pytest.raises(BadInput, match="not all, of a, b, c"):
    load(test="a,b,c")
  with pytest.raises(BadInput, match=r"lasts 100 frames at 25 a second, and .* has 120.*--fps"):
    load(fps=25)
  pair(folder, "b", T=120, C=3)
  with pytest.raises(BadInput, match=r"b\.npy must have 4 channels as a\.npy has; it has 3"):
    load()
  face = pair(folder, "b", T=120)
  face[7, 1] = np.nan
  np.save(folder / "b.npy", face)
  with pytest.raises(BadInput, match=r"b\.npy .* no finite number in frame 7"):
    load()
  np.save(folder / "b.npy", face[0])
  with pytest.raises(BadInput, match=r"b\.npy must be numbers \[T, C\]; it is float64 \(4,\)"):
    load()
  pair(folder, "b", T=1, seconds=0.05)
  with pytest.raises(BadInput, match=r"b\.wav and .*b\.npy must last two frames"):
    load()
  (folder / "b.npy").write_bytes(b"0.1,0.2")
  with pytest.raises(BadInput, match=r"b\.npy cannot be read as an array that numpy\.save wrote"):
    load()
  (folder / "b.npy").unlink()
  with pytest.raises(BadInput, match=r"without their partner are \['b'\]"):
    load()


def test_a_recording_of_two_frames_has_one_to_choose(folder):
  pair(folder, "b", T=2)
  found = faces_data.load(data_dir=str(folder))
  assert [len(one.face) for one in found.train + found.valid] == [102, 1, 18, 1]


def test_a_face_that_never_moves(tmp_path):
  for name in ("a", "b"):
    pair(tmp_path, name, C=1)
  with pytest.raises(BadInput, match=r"no channel of .* moves"):
    faces_data.load(data_dir=str(tmp_path))


@pytest.mark.parametrize("delays", ["-1", "2,", "x", "0,200"])
def test_a_delay_that_is_none(delays):
  with pytest.raises(BadInput, match="--delays must be like 0,4,8, less than --window; got"):
    lips.run(Config(delays=delays, batch=4))


def numbered(T, name="a"):
  """A recording of which frame t sounds like t and looks like 10 t."""
  t = np.arange(T, dtype=np.float32)[:, None]
  return Take(name, t, 10 * t)


@pytest.mark.parametrize("delay", [0, 3])
def test_the_face_of_frame_t_stands_where_frame_t_plus_delay_is_heard(delay):
  text = Faces("made", (0,), [numbered(40)], [numbered(20)], [numbered(20)])
  data = lips.prepare(Config(batch=4, window=16), text, delay)
  for batch, end in ((next(data.train.stream()), 39), (next(iter(data.test)), 19)):
    for b in np.flatnonzero(batch["weights"]):
      heard, face = (batch[name][: batch["lengths"][b], b, 0] for name in ("tokens", "face"))
      inside = (heard >= delay) & (heard < end)  # not the repeated ends
      assert inside.sum() >= 10
      np.testing.assert_array_equal(face[inside], 10 * (heard[inside] - delay))


def test_the_first_frames_that_have_no_answer_count_nothing():
  batch = {"lengths": np.array([5, 3]), "face": np.zeros((5, 2, 1), np.float32)}
  ys = np.arange(1.0, 11).reshape(5, 2, 1).astype(np.float32)
  live = [ys[2, 0, 0], ys[3, 0, 0], ys[4, 0, 0], ys[2, 1, 0]]
  found = lips.measure(ys, batch, 2)["loss"]
  assert found.total == pytest.approx(sum(y**2 for y in live))
  assert found.weight == 4


def test_windows_of_sound():
  """Frame t beside its neighbours, of each recording by itself; its ends are repeated."""
  found = pictures.windows([numbered(3), numbered(2)], 1, 2)
  true = [[0, 0, 1, 2], [0, 1, 2, 2], [1, 2, 2, 2], [0, 0, 1, 1], [0, 1, 1, 1]]
  np.testing.assert_array_equal(found, true)


def test_a_linear_face_is_no_challenge_to_the_regression():
  """What is a weighted sum of the frames around is found."""
  draw = np.random.default_rng(0)

  def take(name):
    heard = draw.normal(size=(800, 3))
    face = np.roll(heard[:, :2].sum(1), 2) + np.roll(heard[:, 2], -1)
    return Take(name, heard, face[:, None])

  text = Faces("made", (0,), [take("a")], [take("b")], [take("c")])
  (heard,), (unheard,) = (
    pictures.correlations(text.test[0].face, pictures.linear(text, future)) for future in (1, 0)
  )
  assert heard > 0.97
  assert unheard < 0.95


def test_correlations_beside_numpy():
  draw = np.random.default_rng(0)
  true, found = draw.normal(size=(2, 50, 4))
  true[:, 2] = 0.3  # stands still
  found[:, 3] = 0.1
  r = pictures.correlations(true, found)
  for c in (0, 1):
    assert r[c] == pytest.approx(np.corrcoef(true[:, c], found[:, c])[0, 1])
  assert np.isnan(r[2])
  assert r[3] == pytest.approx(0, abs=1e-9)


def test_a_delay_pays(tmp_path, monkeypatch):
  """The generated face begins before its sound: who waits does better, and is chosen."""
  monkeypatch.setattr(
    faces_data, "_generated", functools.partial(faces_data._generated, number=8, T=240)
  )
  out = tmp_path / "run"
  scores = lips.run(Config(hidden=24, epochs=2, window=60, batch=8, out=str(out)))
  assert scores["delay"] == 8
  assert scores["valid/loss_delay_8"] < 0.8 * scores["valid/loss_delay_0"]
  assert scores["test/correlation"] > 0.5
  assert {file.name for file in (out / "figures").iterdir()} == {"curves.png", "face.gif"}
  kept = json.loads((out / "delay_8" / "config.json").read_text())
  assert kept["config"]["delays"] == "8"

"""Sounds: what a WAV file holds, what is refused, and where the energy of a tone is."""

import io
import pathlib
import wave

import numpy as np
import pytest
from scipy.io import wavfile

from rnnjax.data import log_mel
from rnnjax.data.standardize import Standardizer
from rnnjax.types import InvalidInputError

RATE = 8000


def sine_wave(pitch, seconds=1.0, rate=RATE):
  time = np.arange(int(rate * seconds)) / rate
  return (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def write_wav(path, samples, rate=RATE):
  wavfile.write(path, rate, samples)
  return pathlib.Path(path)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32"])
def test_all_sample_formats_give_same_sound(kind, tmp_path):
  """To half a step of the coarsest."""
  kind = np.dtype(kind).type
  samples = true = sine_wave(440)
  if kind is np.uint8:
    samples = np.round(128 + 127 * true).astype(kind)
  elif kind is not np.float32:
    samples = np.round(true * np.iinfo(kind).max).astype(kind)
  found = log_mel.read_wav(write_wav(tmp_path / "a.wav", samples), RATE)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, true, atol=1 / 127)


def test_pcm16_written_by_wave_module(tmp_path):
  """16 bit PCM, scaled so that the lowest sample is −1."""
  with wave.open(str(tmp_path / "a.wav"), "wb") as file:
    file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
    file.writeframes(np.array([-32768, 0, 16384], "<i2").tobytes())
  np.testing.assert_array_equal(log_mel.read_wav(tmp_path / "a.wav", RATE), [-1, 0, 0.5])


def test_stereo_is_averaged(tmp_path):
  both = np.stack([sine_wave(440), -sine_wave(440) / 2], 1)
  found = log_mel.read_wav(write_wav(tmp_path / "a.wav", both), RATE)
  np.testing.assert_allclose(found, sine_wave(440) / 4, atol=1e-6)


@pytest.mark.parametrize("rate", [44_100, 16_000, 4000])
def test_resampling_keeps_pitch_and_length(rate, tmp_path):
  """A tone keeps its pitch and its length; both ends apart."""
  found = log_mel.read_wav(write_wav(tmp_path / "a.wav", sine_wave(440, rate=rate), rate), RATE)
  assert len(found) == RATE
  np.testing.assert_allclose(found[200:-200], sine_wave(440)[200:-200], atol=0.01)


def test_unknown_wav_chunks_are_skipped(tmp_path):
  """A note of the program that wrote it, which scipy warns of."""
  stream = io.BytesIO()
  wavfile.write(stream, RATE, sine_wave(440))
  note = b"LIST" + (4).to_bytes(4, "little") + b"note"
  (tmp_path / "a.wav").write_bytes(stream.getvalue() + note)
  np.testing.assert_array_equal(log_mel.read_wav(tmp_path / "a.wav", RATE), sine_wave(440))


@pytest.mark.parametrize("length", [0, 3, 20, 44, 1000], ids=lambda n: f"{n}_bytes")
def test_truncated_wav_raises(length, tmp_path):
  """Named, with a cure, wherever the cut is."""
  path = write_wav(tmp_path / "a.wav", sine_wave(440))
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(
    InvalidInputError, match=r"a\.wav (cannot be read as a WAV|must hold a sound)"
  ):
    log_mel.read_wav(path, RATE)


def test_invalid_wav_raises(tmp_path):
  (tmp_path / "a.wav").write_bytes(b"ID3\x04" + bytes(500))  # an mp3 by another name
  with pytest.raises(InvalidInputError, match=r"a\.wav cannot be read as a WAV file.*ffmpeg"):
    log_mel.read_wav(tmp_path / "a.wav", RATE)
  with pytest.raises(
    InvalidInputError, match=r"a\.wav must hold a sound .* it holds 0 samples at 8000"
  ):
    log_mel.read_wav(write_wav(tmp_path / "a.wav", np.zeros(0, np.int16)), RATE)
  with pytest.raises(InvalidInputError, match="not finite"):
    log_mel.read_wav(write_wav(tmp_path / "a.wav", np.full(10, np.nan, np.float32)), RATE)


@pytest.mark.parametrize("pitch", [300, 700, 1500, 3000])
def test_sine_wave_peaks_in_its_mel_band(pitch):
  """The loudest of 40 bands between 20 Hz and 4 kHz is that whose centre, in mel, is nearest."""
  mel = lambda f: 1127 * np.log(1 + f / 700)
  centres = np.linspace(mel(20), mel(RATE / 2), 42)[1:-1]
  found = log_mel.log_mel(sine_wave(pitch), RATE, 80)
  assert found.shape == (100, 40)
  nearest = np.abs(centres - mel(pitch)).argmin()
  assert np.abs(found[5:-5].argmax(1) - nearest).max() <= 1


def test_double_amplitude_is_four_times_energy():
  one, two = (log_mel.log_mel(k * sine_wave(500), RATE, 80) for k in (1, 2))
  loud = one > -5
  assert loud.any()
  np.testing.assert_allclose((two - one)[loud], np.log(4), atol=1e-3)


def test_frames_do_not_drift():
  """A click in the middle of the n-th step is loudest in the n-th frame, however late."""
  step, n = 160, 3000
  samples = np.zeros(step * (n + 20), np.float32)
  samples[step * n + step // 2] = 1
  found = log_mel.log_mel(samples, 14_400, step)
  assert len(found) == n + 20
  assert found.sum(1).argmax() == n


def test_sound_shorter_than_one_frame_raises():
  assert log_mel.log_mel(np.ones(40, np.float32), RATE, 80).shape == (1, 40)
  with pytest.raises(ValueError, match="40 samples or more; got 39"):
    log_mel.log_mel(np.ones(39, np.float32), RATE, 80)


def test_frame_stacking_and_standardization():
  frames = np.arange(8.0).reshape(4, 2)
  np.testing.assert_array_equal(log_mel.stack_frames(frames, 3), [[0, 1, 2, 3, 4, 5], [6, 7] * 3])
  scale = Standardizer.fit([np.array([[1.0, 5.0]]), np.array([[3.0, 5.0], [5.0, 5.0]])])
  found = scale(np.array([[3.0, 6.0]]))
  np.testing.assert_allclose(found, [[0, 1]])  # what stands still is only shifted
  np.testing.assert_allclose(scale.inverse(found), [[3, 6]])

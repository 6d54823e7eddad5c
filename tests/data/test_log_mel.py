"""WAV files and log-mel spectrograms."""

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


def sine_wave(frequency, seconds=1.0, rate=RATE):
  time = np.arange(int(rate * seconds)) / rate
  return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_wav(path, samples, rate=RATE):
  wavfile.write(path, rate, samples)
  return pathlib.Path(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_all_sample_formats_give_same_sound(dtype, tmp_path):
  """Samples agree to one step of the coarsest format."""
  dtype = np.dtype(dtype).type
  samples = expected = sine_wave(440)
  if dtype is np.uint8:
    samples = np.round(128 + 127 * expected).astype(dtype)
  elif dtype is not np.float32:
    samples = np.round(expected * np.iinfo(dtype).max).astype(dtype)
  loaded = log_mel.read_wav(write_wav(tmp_path / "a.wav", samples), RATE)
  assert loaded.dtype == np.float32
  np.testing.assert_allclose(loaded, expected, atol=1 / 127)


def test_pcm16_written_by_wave_module(tmp_path):
  """16 bit PCM is scaled so that the lowest sample is −1."""
  with wave.open(str(tmp_path / "a.wav"), "wb") as file:
    file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
    file.writeframes(np.array([-32768, 0, 16384], "<i2").tobytes())
  np.testing.assert_array_equal(log_mel.read_wav(tmp_path / "a.wav", RATE), [-1, 0, 0.5])


def test_stereo_is_averaged(tmp_path):
  stereo = np.stack([sine_wave(440), -sine_wave(440) / 2], 1)
  loaded = log_mel.read_wav(write_wav(tmp_path / "a.wav", stereo), RATE)
  np.testing.assert_allclose(loaded, sine_wave(440) / 4, atol=1e-6)


@pytest.mark.parametrize("rate", [44_100, 16_000, 4000])
def test_resampling_keeps_pitch_and_length(rate, tmp_path):
  """Both ends are left out: resampling distorts them."""
  loaded = log_mel.read_wav(write_wav(tmp_path / "a.wav", sine_wave(440, rate=rate), rate), RATE)
  assert len(loaded) == RATE
  np.testing.assert_allclose(loaded[200:-200], sine_wave(440)[200:-200], atol=0.01)


def test_unknown_wav_chunks_are_skipped(tmp_path):
  """scipy warns of unknown chunks, such as a comment of the program that wrote the file."""
  stream = io.BytesIO()
  wavfile.write(stream, RATE, sine_wave(440))
  comment = b"LIST" + (4).to_bytes(4, "little") + b"note"
  (tmp_path / "a.wav").write_bytes(stream.getvalue() + comment)
  np.testing.assert_array_equal(log_mel.read_wav(tmp_path / "a.wav", RATE), sine_wave(440))


@pytest.mark.parametrize("length", [0, 3, 20, 44, 1000], ids=lambda n: f"{n}_bytes")
def test_truncated_wav_raises(length, tmp_path):
  path = write_wav(tmp_path / "a.wav", sine_wave(440))
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(
    InvalidInputError, match=r"a\.wav (cannot be read as a WAV|must hold a sound)"
  ):
    log_mel.read_wav(path, RATE)


def test_invalid_wav_raises(tmp_path):
  (tmp_path / "a.wav").write_bytes(b"ID3\x04" + bytes(500))  # an MP3 file
  with pytest.raises(InvalidInputError, match=r"a\.wav cannot be read as a WAV file.*ffmpeg"):
    log_mel.read_wav(tmp_path / "a.wav", RATE)
  with pytest.raises(
    InvalidInputError, match=r"a\.wav must hold a sound .* it holds 0 samples at 8000"
  ):
    log_mel.read_wav(write_wav(tmp_path / "a.wav", np.zeros(0, np.int16)), RATE)
  with pytest.raises(InvalidInputError, match="not finite"):
    log_mel.read_wav(write_wav(tmp_path / "a.wav", np.full(10, np.nan, np.float32)), RATE)


@pytest.mark.parametrize("frequency", [300, 700, 1500, 3000])
def test_sine_wave_peaks_in_its_mel_band(frequency):
  """The loudest of 40 bands from 20 Hz to 4 kHz is the one with the nearest center in mel."""

  def mel(f):
    return 1127 * np.log(1 + f / 700)

  centers = np.linspace(mel(20), mel(RATE / 2), 42)[1:-1]
  frames = log_mel.log_mel(sine_wave(frequency), RATE, 80)
  assert frames.shape == (100, 40)
  nearest_band = np.abs(centers - mel(frequency)).argmin()
  assert np.abs(frames[5:-5].argmax(1) - nearest_band).max() <= 1


def test_double_amplitude_is_four_times_energy():
  single, double = (log_mel.log_mel(k * sine_wave(500), RATE, 80) for k in (1, 2))
  loud = single > -5
  assert loud.any()
  np.testing.assert_allclose((double - single)[loud], np.log(4), atol=1e-3)


def test_frames_do_not_drift():
  """A click in the middle of the n-th hop is loudest in frame n, even for large n."""
  hop_length, n = 160, 3000
  samples = np.zeros(hop_length * (n + 20), np.float32)
  samples[hop_length * n + hop_length // 2] = 1
  frames = log_mel.log_mel(samples, 14_400, hop_length)
  assert len(frames) == n + 20
  assert frames.sum(1).argmax() == n


def test_sound_shorter_than_one_frame_raises():
  assert log_mel.log_mel(np.ones(40, np.float32), RATE, 80).shape == (1, 40)
  with pytest.raises(ValueError, match="40 samples or more; got 39"):
    log_mel.log_mel(np.ones(39, np.float32), RATE, 80)


def test_frame_stacking_and_standardization():
  frames = np.arange(8.0).reshape(4, 2)
  np.testing.assert_array_equal(log_mel.stack_frames(frames, 3), [[0, 1, 2, 3, 4, 5], [6, 7] * 3])
  standardizer = Standardizer.fit([np.array([[1.0, 5.0]]), np.array([[3.0, 5.0], [5.0, 5.0]])])
  standardized = standardizer(np.array([[3.0, 6.0]]))
  np.testing.assert_allclose(standardized, [[0, 1]])  # a constant feature is only shifted
  np.testing.assert_allclose(standardizer.inverse(standardized), [[3, 6]])

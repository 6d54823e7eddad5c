"""WAV files and log-mel spectrograms.

    log_mel: samples [N] -> [T, F],   T ≈ N / hop_length,   log Σ_k M_fk |DFT(window ⊙ samples)_tk|²

The F bands of M are triangles of equal width on the mel scale (Davis & Mermelstein 1980), computed
as in Kaldi by kaldi-native-fbank.
"""

import io
import warnings

import kaldi_native_fbank as knf
import numpy as np
from scipy import signal
from scipy.io import wavfile

from rnnjax.data.files import File, read_bytes, reraise_decode_errors
from rnnjax.types import InvalidInputError

NUM_MEL_BANDS = 40
WINDOW_MS = 25
SAMPLE_RATE_RANGE = 1000, 400_000  # Hz; limits the memory of resampling
CONVERT_HINT = (
  "Was it cut off, or is it of another format under this name? "
  "`ffmpeg -i FILE -c:a pcm_s16le NEW.wav` converts it"
)


def read_wav(file: File, sample_rate: int) -> np.ndarray:
  """Return the samples [N] of a WAV file, float32.

  PCM samples are scaled to [-1, 1]. Channels are averaged. A file with another sample rate is
  resampled.

  Args:
    file: a WAV file of PCM or float samples.
    sample_rate: sample rate of the result, in Hz.

  Raises:
    InvalidInputError: the file is not a WAV file or has an unsupported encoding; it is cut off or
      empty; a sample is not finite; its sample rate is outside SAMPLE_RATE_RANGE.
  """
  content = read_bytes(file)
  action = "as a WAV file of PCM or float samples"
  # On damaged headers, scipy raises NameError, TypeError or ZeroDivisionError.
  errors = wavfile.WavFileWarning, NameError, TypeError, ZeroDivisionError
  with reraise_decode_errors(file, action, CONVERT_HINT, *errors), warnings.catch_warnings():
    # Unknown chunks are skipped, but a missing end is an error.
    warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)
    warnings.filterwarnings("error", "Reached EOF", category=wavfile.WavFileWarning)
    file_rate, samples = wavfile.read(io.BytesIO(content))
  lowest, highest = SAMPLE_RATE_RANGE
  if not samples.size or not lowest <= file_rate <= highest:
    raise InvalidInputError(
      f"{file} must hold a sound with a sample rate of {lowest} to {highest} Hz; it holds "
      f"{len(samples)} samples at {file_rate} Hz. Record it again"
    )
  if samples.dtype == np.uint8:
    samples = samples.astype(np.float32) / 128 - 1
  elif samples.dtype.kind == "i":
    samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
  with np.errstate(over="ignore", invalid="ignore"):
    samples = samples.reshape(len(samples), -1).mean(1)
    if file_rate != sample_rate:
      samples = signal.resample_poly(samples, sample_rate, file_rate)
    samples = samples.astype(np.float32)
  if not np.isfinite(samples).all():
    raise InvalidInputError(
      f"{file} has samples that are not finite numbers. Write it as 16 bit PCM"
    )
  return samples


def log_mel(
  samples: np.ndarray, sample_rate: int, hop_length: int, num_bands: int = NUM_MEL_BANDS
) -> np.ndarray:
  """Return the log-mel spectrogram [T, F] of a sound, with T = round(N / hop_length).

  Frame t is a 25 ms window. Its center is the middle of the samples t·hop_length to
  (t + 1)·hop_length.

  Args:
    samples: samples of the sound [N], float32.
    sample_rate: sample rate in Hz.
    hop_length: number of samples from one frame to the next.
    num_bands: F, the number of mel bands.

  Raises:
    ValueError: the sound has fewer than hop_length / 2 samples, so T would be 0.
  """
  if len(samples) < (hop_length + 1) // 2:
    raise ValueError(
      f"a sound must have {(hop_length + 1) // 2} samples or more; got {len(samples)}"
    )
  options = knf.FbankOptions()
  frames, mel = options.frame_opts, options.mel_opts
  frames.samp_freq, frames.dither, frames.snip_edges = sample_rate, 0.0, False
  # Kaldi rounds the frame shift in ms down to whole samples; adding half a sample prevents drift.
  frames.frame_shift_ms, frames.frame_length_ms = 1000 * (hop_length + 0.5) / sample_rate, WINDOW_MS
  mel.num_bins = num_bands
  fbank = knf.OnlineFbank(options)
  fbank.accept_waveform(sample_rate, samples)
  fbank.input_finished()
  return np.stack([fbank.get_frame(t) for t in range(fbank.num_frames_ready)])


def stack_frames(frames: np.ndarray, n: int) -> np.ndarray:
  """Concatenate each n consecutive frames, [T, F] -> [⌈T / n⌉, nF]; pad with the last frame."""
  frames = np.pad(frames, [(0, -len(frames) % n), (0, 0)], "edge")
  return frames.reshape(-1, n * frames.shape[1])

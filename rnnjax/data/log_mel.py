"""Sounds, as WAV files hold them and as nets read them: energies in bands of pitch.

    log_mel: samples [N] -> [T, F],  T = N / step,  log Σ_k M_fk |DFT(window ⊙ samples around t)_k|²

The bands M are triangles of one width on the mel scale, on which pitches stand as far apart as one
hears them (Davis & Mermelstein 1980); kaldi-native-fbank computes them as Kaldi does.
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
WINDOW_MS = 25  # ms
SAMPLE_RATE_RANGE = 1000, 400_000  # samples a second that a file may have
ADVICE = (
  "Was it cut off, or is it of another format under this name? "
  "`ffmpeg -i FILE -c:a pcm_s16le NEW.wav` makes one"
)


def read_wav(file: File, sample_rate: int) -> np.ndarray:
  """The samples [N] of a WAV file, in [-1, 1].

  Several channels are mixed, another sample rate is resampled to `rate`.

  Raises:
    BadInput: it is no WAV file, of a kind that is not read, cut off, empty, or not finite.
  """
  content = read_bytes(file)
  odd, kind = wavfile.WavFileWarning, "as a WAV file of PCM or float samples"
  raised = odd, NameError, TypeError, ZeroDivisionError
  with reraise_decode_errors(file, kind, ADVICE, *raised), warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=odd)  # of other chunks
    warnings.filterwarnings("error", "Reached EOF", category=odd)
    own, samples = wavfile.read(io.BytesIO(content))
  if not samples.size or not SAMPLE_RATE_RANGE[0] <= own <= SAMPLE_RATE_RANGE[1]:
    raise InvalidInputError(
      f"{file} must hold a sound of {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]} samples a second; it holds "
      f"{len(samples)} samples at {own} Hz. Record it again"
    )
  if samples.dtype == np.uint8:
    samples = samples.astype(np.float32) / 128 - 1
  elif samples.dtype.kind == "i":
    samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
  with np.errstate(over="ignore", invalid="ignore"):
    samples = samples.reshape(len(samples), -1).mean(1)
    if own != sample_rate:
      samples = signal.resample_poly(samples, sample_rate, own)
    samples = samples.astype(np.float32)
  if not np.isfinite(samples).all():
    raise InvalidInputError(
      f"{file} has samples that are not finite numbers. Write it as 16 bit PCM"
    )
  return samples


def log_mel(
  samples: np.ndarray, sample_rate: int, hop_length: int, num_bands: int = NUM_MEL_BANDS
) -> np.ndarray:
  """Logarithms of the energies in mel bands, a frame every `step` samples: [N] -> [N / step, F].

  The n-th frame is a window of 25 ms around the middle of the n-th step.

  Raises:
    ValueError: the sound is shorter than half a step, so that it has no frame.
  """
  if len(samples) < (hop_length + 1) // 2:
    raise ValueError(
      f"a sound must have {(hop_length + 1) // 2} samples or more; got {len(samples)}"
    )
  options = knf.FbankOptions()
  frames, mel = options.frame_opts, options.mel_opts
  frames.samp_freq, frames.dither, frames.snip_edges = sample_rate, 0.0, False
  # Half a sample more: Kaldi turns milliseconds into samples and cuts off what is left.
  frames.frame_shift_ms, frames.frame_length_ms = 1000 * (hop_length + 0.5) / sample_rate, WINDOW_MS
  mel.num_bins = num_bands
  bank = knf.OnlineFbank(options)
  bank.accept_waveform(sample_rate, samples)
  bank.input_finished()
  return np.stack([bank.get_frame(t) for t in range(bank.num_frames_ready)])


def stack_frames(frames: np.ndarray, n: int) -> np.ndarray:
  """Each n frames as one: [T, F] -> [T / n, n F], rounded up; the last one is repeated."""
  frames = np.pad(frames, [(0, -len(frames) % n), (0, 0)], "edge")
  return frames.reshape(-1, n * frames.shape[1])

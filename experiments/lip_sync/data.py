"""Recordings of speech with the motion of a face, frame by frame.

  embedded   generated tones with four face channels that follow their volumes
  files      a folder or .zip archive of pairs NAME.wav and NAME.npy. NAME.npy is an array [T, C] of
             T frames and C channels, such as blendshape weights. Both files start at the same time

The test set consists of complete recordings. Of every other recording, the last VALID_FRACTION is
in the validation set and the rest in the training set.
"""

from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, use_files
from rnnjax.data.log_mel import log_mel, read_wav, stack_frames
from rnnjax.data.npy import read_npy
from rnnjax.data.standardize import Standardizer
from rnnjax.types import InvalidInputError

HOP_LENGTH = 160  # samples of an audio frame
FRAME_STACK = 3  # audio frames per face frame; the sample rate of the audio is adapted to this
VALID_FRACTION = 0.15
MIN_DEVIATION = 0.01  # channels with a smaller standard deviation are omitted
MAX_LENGTH_DIFF = 15  # largest difference between the lengths of audio and face, in frames


class FaceRecording(NamedTuple):
  """A recording of speech with the motion of the face.

  Attributes:
    name: the name of the recording's files, without extension.
    audio_features: the log-mel features [T, F].
    face: the values of the face channels [T, C].
  """

  name: str
  audio_features: np.ndarray
  face: np.ndarray


class FaceDataset(NamedTuple):
  """Recordings in three splits.

  Attributes:
    name: the name of the data set.
    channels: the column indices of the C channels in the files. Channels that are constant in the
      training set (standard deviation at most MIN_DEVIATION) are omitted.
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  channels: tuple[int, ...]
  train: list[FaceRecording]
  valid: list[FaceRecording]
  test: list[FaceRecording]


def load(
  dataset: str = "auto", data_dir: str = "", test_recordings: str = "", fps: int = 30
) -> FaceDataset:
  """Load recordings of audio and face.

  Args:
    dataset: one of files.DATASETS. "auto" reads files if data_dir is non-empty, else it uses the
      embedded data.
    data_dir: the folder or .zip archive of the recordings.
    test_recordings: comma-separated names of the test recordings; "" for the last recording.
    fps: the number of face frames per second.

  Raises:
    InvalidInputError: files are missing, damaged or inconsistent; a test recording does not exist;
      all recordings are test recordings; or all channels are constant in the training set.
  """
  if use_files(dataset, data_dir, "a generated face", "PATH reads recordings"):
    name, recordings = "files", _read_recordings(data_dir, fps)
  else:
    name, recordings = "embedded", _generate_recordings(fps)
  names = [recording.name for recording in recordings]
  test_names = test_recordings.split(",") if test_recordings else names[-1:]
  unknown_names = {*test_names} - {*names}
  if unknown_names or len(test_names) >= len(names):
    raise InvalidInputError(
      f"--test_recordings must name some, not all, of {', '.join(names)}; got {test_recordings!r}"
    )
  other_recordings = [recording for recording in recordings if recording.name not in test_names]
  train = []
  valid = []
  for recording in other_recordings:
    end = max(1, int((1 - VALID_FRACTION) * len(recording.face)))
    train.append(
      FaceRecording(recording.name, recording.audio_features[:end], recording.face[:end])
    )
    valid.append(
      FaceRecording(recording.name, recording.audio_features[end:], recording.face[end:])
    )
  all_faces = np.concatenate([recording.face for recording in train])
  channels = np.flatnonzero(all_faces.std(0) > MIN_DEVIATION)
  if not channels.size:
    raise InvalidInputError(
      f"{data_dir or name}: no channel has a standard deviation above {MIN_DEVIATION} in the "
      "training set"
    )
  splits = train, valid, [recording for recording in recordings if recording.name in test_names]
  moving_splits = (
    [recording._replace(face=recording.face[:, channels]) for recording in split]
    for split in splits
  )
  return FaceDataset(name, tuple(channels.tolist()), *moving_splits)


def frame_features(samples: np.ndarray, fps: int) -> np.ndarray:
  """Return the log-mel features [N / 480, F] of audio samples [N] at a sample rate of 480 · fps."""
  return stack_frames(log_mel(samples, FRAME_STACK * HOP_LENGTH * fps, HOP_LENGTH), FRAME_STACK)


def standardize_dataset(dataset: FaceDataset) -> tuple[FaceDataset, Standardizer]:
  """Standardize the audio features and the face channels by their training set statistics.

  Returns:
    The standardized data set and the scaler of the face channels.
  """
  audio_scaler = Standardizer.fit([recording.audio_features for recording in dataset.train])
  face_scaler = Standardizer.fit([recording.face for recording in dataset.train])

  def standardize(recordings):
    return [
      FaceRecording(rec.name, audio_scaler(rec.audio_features), face_scaler(rec.face))
      for rec in recordings
    ]

  scaled = dataset._replace(
    train=standardize(dataset.train),
    valid=standardize(dataset.valid),
    test=standardize(dataset.test),
  )
  return scaled, face_scaler


def pad_edges(xs: np.ndarray, before: int, after: int) -> np.ndarray:
  """Pad xs [T, D] with `before` copies of the first row and `after` copies of the last row."""
  return np.pad(xs, [(before, after), (0, 0)], "edge")


def _read_recordings(data_dir: str, fps: int) -> list[FaceRecording]:
  files = {file.name: file for file in list_files(data_dir) if not file.name.startswith(".")}
  npy_stems = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
  wav_stems = {name.removesuffix(".wav") for name in files if name.endswith(".wav")}
  if not npy_stems or {*npy_stems} != wav_stems:
    raise InvalidInputError(
      f"{data_dir} must contain pairs NAME.wav and NAME.npy; without a partner are "
      f"{sorted({*npy_stems} ^ wav_stems) or 'none, because there are no such files'}"
    )
  recordings = []
  for stem in sorted(npy_stems):
    wav_file = files[f"{stem}.wav"]
    npy_file = files[f"{stem}.npy"]
    face = _read_face(npy_file)
    if recordings and face.shape[1] != recordings[0].face.shape[1]:
      raise InvalidInputError(
        f"{npy_file} must have {recordings[0].face.shape[1]} channels like "
        f"{recordings[0].name}.npy; it has {face.shape[1]}"
      )
    samples = read_wav(wav_file, FRAME_STACK * HOP_LENGTH * fps)
    # A recording must provide at least one frame for training and one frame for validation.
    if min(len(samples) // (FRAME_STACK * HOP_LENGTH), len(face)) < 2:
      raise InvalidInputError(f"{wav_file} and {npy_file} must last at least two frames")
    audio_features = frame_features(samples, fps)
    if abs(len(audio_features) - len(face)) > MAX_LENGTH_DIFF:
      raise InvalidInputError(
        f"{wav_file} lasts {len(audio_features)} frames at {fps} per second, but {npy_file} has "
        f"{len(face)}. Is --fps wrong, or was one of them cut off?"
      )
    n = min(len(audio_features), len(face))
    recordings.append(FaceRecording(stem, audio_features[:n], face[:n]))
  return recordings


def _read_face(file: File) -> np.ndarray:
  face = read_npy(file)
  if face.ndim != 2 or face.dtype.kind not in "fiu" or not face.size:
    raise InvalidInputError(
      f"{file} must be a numeric array [T, C]; it is {face.dtype} {face.shape}"
    )
  with np.errstate(over="ignore"):
    face = face.astype(np.float32)
  if not np.isfinite(face).all():
    frame = int(np.flatnonzero(~np.isfinite(face).all(1))[0])
    raise InvalidInputError(f"{file} has a non-finite value in frame {frame}")
  return face


def _generate_recordings(fps: int, num_recordings: int = 24, T: int = 600) -> list[FaceRecording]:
  """Generate recordings of tones with varying volumes and of four face channels that follow them.

  The audio is a mixture of tones of four pitches, and ends in silence. Each face channel is a
  damped spring that is pulled towards a function of the volumes 0.2 s later, as lips close before a
  p is heard. The motion therefore depends on all past audio and on 0.2 s of future audio. A model
  needs a delay to use this future audio.
  """
  rng = np.random.default_rng(0)
  recordings = []
  lead = fps // 5  # number of frames by which the face precedes the audio
  N = FRAME_STACK * HOP_LENGTH
  mix = rng.uniform(-1, 1, (4, 4))
  for n in range(num_recordings):
    # Random volumes at every sixth frame are interpolated to all frames.
    beats = rng.random((T // 6 + 3, 4)) * (rng.random((T // 6 + 3, 4)) < 0.4)
    beats[T // 6 - 3 :] = 0
    beat_times = np.arange(T + lead) / 6
    volumes = np.stack([np.interp(beat_times, np.arange(len(beat)), beat) for beat in beats.T], 1)
    time = np.arange(N * T) / (N * fps)
    amplitudes = np.stack([np.interp(time * fps, np.arange(T), v[:T]) for v in volumes.T], 1)
    pitch = np.array([300, 700, 1500, 3000])
    samples = (amplitudes * np.sin(2 * np.pi * pitch * time[:, None])).sum(1) / 4
    samples += 0.003 * rng.standard_normal(len(samples))
    target = np.tanh(3 * volumes @ mix)
    position = np.zeros(4)
    velocity = np.zeros(4)
    face = []
    for t in range(T):
      velocity = 0.6 * velocity + 0.2 * (target[t + lead] - position)
      position = position + velocity
      face.append(position)
    recordings.append(
      FaceRecording(f"{n:02}", frame_features(samples.astype(np.float32), fps), np.float32(face))
    )
  return recordings

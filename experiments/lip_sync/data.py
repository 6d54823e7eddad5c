"""Sounds of speech and how a face moved with them, frame by frame.

  embedded   generated: the energies in four bands of a sound pull at a few channels
  files      a folder or .zip archive of pairs NAME.wav and NAME.npy, the latter [T, C]: T frames
             from where the sound begins, of C channels such as blendshape weights

Recordings to be tested are named; of all others the last `TAIL` chooses.
"""

from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, list_files, use_files
from rnnjax.data.log_mel import log_mel, read_wav, stack_frames
from rnnjax.data.npy import read_npy
from rnnjax.data.standardize import Standardizer
from rnnjax.types import InvalidInputError

HOP_LENGTH, FRAME_STACK = (
  160,
  3,
)  # samples of a step, and steps of a frame: the sound is resampled to fit
VALID_FRACTION = 0.15
MIN_DEVIATION = 0.01  # a channel of smaller deviation does not move
MAX_LENGTH_DIFF = 15  # frames by which sound and face may differ in length


class FaceRecording(NamedTuple):
  """A recording: what was heard, [T, F], and how the face moved, [T, C]."""

  name: str
  audio_features: np.ndarray
  face: np.ndarray


class FaceDataset(NamedTuple):
  """Recordings in three parts; only the channels that move in training are kept."""

  name: str
  channels: tuple[int, ...]
  train: list[FaceRecording]
  valid: list[FaceRecording]
  test: list[FaceRecording]


def load(
  dataset: str = "auto", data_dir: str = "", test_recordings: str = "", fps: int = 30
) -> FaceDataset:
  """Loads recordings.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive.
    test: the names of those to be tested, with commas between; "" for the last one.
    fps: frames a second.

  Raises:
    BadInput: files that are missing, damaged, or do not fit each other; a face that never moves.
  """
  if use_files(dataset, data_dir, "a generated face", "PATH reads recordings"):
    name, takes = "files", _read_recordings(data_dir, fps)
  else:
    name, takes = "embedded", _generate_recordings(fps)
  names = [take.name for take in takes]
  tested = test_recordings.split(",") if test_recordings else names[-1:]
  unknown = {*tested} - {*names}
  if unknown or len(tested) >= len(names):
    raise InvalidInputError(
      f"--test_recordings must name some, not all, of {', '.join(names)}; got {test_recordings!r}"
    )
  known = [take for take in takes if take.name not in tested]
  end = lambda take: max(1, int((1 - VALID_FRACTION) * len(take.face)))
  train = [
    FaceRecording(one.name, one.audio_features[: end(one)], one.face[: end(one)]) for one in known
  ]
  valid = [
    FaceRecording(one.name, one.audio_features[end(one) :], one.face[end(one) :]) for one in known
  ]
  moves = np.flatnonzero(np.concatenate([one.face for one in train]).std(0) > MIN_DEVIATION)
  if not moves.size:
    raise InvalidInputError(
      f"no channel of {data_dir or name} moves by more than {MIN_DEVIATION} in training"
    )
  parts = train, valid, [take for take in takes if take.name in tested]
  kept = ([one._replace(face=one.face[:, moves]) for one in part] for part in parts)
  return FaceDataset(name, tuple(moves.tolist()), *kept)


def frame_features(samples: np.ndarray, fps: int) -> np.ndarray:
  """What is heard in each frame: samples [N], of 480 fps a second -> [N / 480, F]."""
  return stack_frames(log_mel(samples, FRAME_STACK * HOP_LENGTH * fps, HOP_LENGTH), FRAME_STACK)


def standardize_dataset(dataset: FaceDataset) -> tuple[FaceDataset, Standardizer]:
  """What is heard and what moves, in deviations of the training part; and the face's scale."""
  ears, skin = (Standardizer.fit([one[i] for one in dataset.train]) for i in (1, 2))
  own = lambda part: [
    FaceRecording(one.name, ears(one.audio_features), skin(one.face)) for one in part
  ]
  return dataset._replace(
    train=own(dataset.train), valid=own(dataset.valid), test=own(dataset.test)
  ), skin


def pad_edges(xs: np.ndarray, before: int, after: int) -> np.ndarray:
  """xs [T, D] with its first frame so many times before it, and its last behind."""
  return np.pad(xs, [(before, after), (0, 0)], "edge")


def _read_recordings(data_dir: str, fps: int) -> list[FaceRecording]:
  files = {file.name: file for file in list_files(data_dir) if not file.name.startswith(".")}
  stems = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
  sounds = {name.removesuffix(".wav") for name in files if name.endswith(".wav")}
  if not stems or {*stems} != sounds:
    raise InvalidInputError(
      f"{data_dir} must hold pairs NAME.wav and NAME.npy; without their partner are "
      f"{sorted({*stems} ^ sounds) or 'none, for there is neither'}"
    )
  takes = []
  for stem in sorted(stems):
    sound, file = files[f"{stem}.wav"], files[f"{stem}.npy"]
    face = _read_face(file)
    if takes and face.shape[1] != takes[0].face.shape[1]:
      raise InvalidInputError(
        f"{file} must have {takes[0].face.shape[1]} channels as {takes[0].name}.npy has; "
        f"it has {face.shape[1]}"
      )
    samples = read_wav(sound, FRAME_STACK * HOP_LENGTH * fps)
    if min(len(samples) // (FRAME_STACK * HOP_LENGTH), len(face)) < 2:
      raise InvalidInputError(
        f"{sound} and {file} must last two frames at least, so that one can choose"
      )
    heard = frame_features(samples, fps)
    if abs(len(heard) - len(face)) > MAX_LENGTH_DIFF:
      raise InvalidInputError(
        f"{sound} lasts {len(heard)} frames at {fps} a second, and {file} has {len(face)}. "
        "Is --fps another, or was one of them cut?"
      )
    n = min(len(heard), len(face))
    takes.append(FaceRecording(stem, heard[:n], face[:n]))
  return takes


def _read_face(file: File) -> np.ndarray:
  face = read_npy(file)
  if face.ndim != 2 or face.dtype.kind not in "fiu" or not face.size:
    raise InvalidInputError(f"{file} must be numbers [T, C]; it is {face.dtype} {face.shape}")
  with np.errstate(over="ignore"):
    face = face.astype(np.float32)
  if not np.isfinite(face).all():
    row = int(np.flatnonzero(~np.isfinite(face).all(1))[0])
    raise InvalidInputError(f"{file} has a value that is no finite number in frame {row}")
  return face


def _generate_recordings(fps: int, num_recordings: int = 24, T: int = 600) -> list[FaceRecording]:
  """Four pitches that come and go, and four channels that follow them.

  A channel is pulled as a spring is, towards what the sound will be a fifth of a second later, as
  lips close before a p is heard; so what a channel does now is in part decided by what is not yet
  to be heard, and in part by all that was. A recording ends in silence.
  """
  draw, takes = np.random.default_rng(0), []
  ahead, N = fps // 5, FRAME_STACK * HOP_LENGTH
  mix = draw.uniform(-1, 1, (4, 4))
  for n in range(num_recordings):
    beats = draw.random((T // 6 + 3, 4)) * (draw.random((T // 6 + 3, 4)) < 0.4)
    beats[T // 6 - 3 :] = 0
    at = np.arange(T + ahead) / 6
    energy = np.stack([np.interp(at, np.arange(len(beats)), beat) for beat in beats.T], 1)
    time = np.arange(N * T) / (N * fps)
    loud = np.stack([np.interp(time * fps, np.arange(T), e[:T]) for e in energy.T], 1)
    pitch = np.array([300, 700, 1500, 3000])
    samples = (loud * np.sin(2 * np.pi * pitch * time[:, None])).sum(1) / 4
    samples += 0.003 * draw.standard_normal(len(samples))
    pull = np.tanh(3 * energy @ mix)
    place, speed, face = np.zeros(4), np.zeros(4), []
    for t in range(T):
      speed = 0.6 * speed + 0.2 * (pull[t + ahead] - place)
      place = place + speed
      face.append(place)
    takes.append(
      FaceRecording(f"{n:02}", frame_features(samples.astype(np.float32), fps), np.float32(face))
    )
  return takes

"""Sounds of speech and how a face moved with them, frame by frame.

  embedded   generated: the energies in four bands of a sound pull at a few channels
  files      a folder or .zip archive of pairs NAME.wav and NAME.npy, the latter [T, C]: T frames
             from where the sound begins, of C channels such as blendshape weights

Recordings to be tested are named; of all others the last `TAIL` chooses.
"""

from typing import NamedTuple

import numpy as np

from rnnjax.data.files import File, contents, given
from rnnjax.data.log_mel import log_mel, read, stacked
from rnnjax.data.npy import array
from rnnjax.data.standardize import Scale
from rnnjax.types import BadInput

STEP, STACK = 160, 3  # samples of a step, and steps of a frame: the sound is resampled to fit
TAIL = 0.15
STILL = 0.01  # a channel of smaller deviation does not move
APART = 15  # frames by which sound and face may differ in length


class Take(NamedTuple):
  """A recording: what was heard, [T, F], and how the face moved, [T, C]."""

  name: str
  heard: np.ndarray
  face: np.ndarray


class Faces(NamedTuple):
  """Recordings in three parts; only the channels that move in training are kept."""

  name: str
  channels: tuple[int, ...]
  train: list[Take]
  valid: list[Take]
  test: list[Take]


def load(dataset: str = "auto", data_dir: str = "", test: str = "", fps: int = 30) -> Faces:
  """Loads recordings.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive.
    test: the names of those to be tested, with commas between; "" for the last one.
    fps: frames a second.

  Raises:
    BadInput: files that are missing, damaged, or do not fit each other; a face that never moves.
  """
  if given(dataset, data_dir, "a generated face", "PATH reads recordings"):
    name, takes = "files", _files(data_dir, fps)
  else:
    name, takes = "embedded", _generated(fps)
  names = [take.name for take in takes]
  tested = test.split(",") if test else names[-1:]
  unknown = {*tested} - {*names}
  if unknown or len(tested) >= len(names):
    raise BadInput(f"--test must name some, not all, of {', '.join(names)}; got {test!r}")
  known = [take for take in takes if take.name not in tested]
  end = lambda take: max(1, int((1 - TAIL) * len(take.face)))
  train = [Take(one.name, one.heard[: end(one)], one.face[: end(one)]) for one in known]
  valid = [Take(one.name, one.heard[end(one) :], one.face[end(one) :]) for one in known]
  moves = np.flatnonzero(np.concatenate([one.face for one in train]).std(0) > STILL)
  if not moves.size:
    raise BadInput(f"no channel of {data_dir or name} moves by more than {STILL} in training")
  parts = train, valid, [take for take in takes if take.name in tested]
  kept = ([one._replace(face=one.face[:, moves]) for one in part] for part in parts)
  return Faces(name, tuple(moves.tolist()), *kept)


def frames(samples: np.ndarray, fps: int) -> np.ndarray:
  """What is heard in each frame: samples [N], of 480 fps a second -> [N / 480, F]."""
  return stacked(log_mel(samples, STACK * STEP * fps, STEP), STACK)


def scaled(text: Faces) -> tuple[Faces, Scale]:
  """What is heard and what moves, in deviations of the training part; and the face's scale."""
  ears, skin = (Scale.of([one[i] for one in text.train]) for i in (1, 2))
  own = lambda part: [Take(one.name, ears(one.heard), skin(one.face)) for one in part]
  return text._replace(train=own(text.train), valid=own(text.valid), test=own(text.test)), skin


def longer(xs: np.ndarray, before: int, behind: int) -> np.ndarray:
  """xs [T, D] with its first frame so many times before it, and its last behind."""
  return np.pad(xs, [(before, behind), (0, 0)], "edge")


def _files(data_dir: str, fps: int) -> list[Take]:
  files = {file.name: file for file in contents(data_dir) if not file.name.startswith(".")}
  stems = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
  sounds = {name.removesuffix(".wav") for name in files if name.endswith(".wav")}
  if not stems or {*stems} != sounds:
    raise BadInput(
      f"{data_dir} must hold pairs NAME.wav and NAME.npy; without their partner are "
      f"{sorted({*stems} ^ sounds) or 'none, for there is neither'}"
    )
  takes = []
  for stem in sorted(stems):
    sound, file = files[f"{stem}.wav"], files[f"{stem}.npy"]
    face = _array(file)
    if takes and face.shape[1] != takes[0].face.shape[1]:
      raise BadInput(
        f"{file} must have {takes[0].face.shape[1]} channels as {takes[0].name}.npy has; "
        f"it has {face.shape[1]}"
      )
    samples = read(sound, STACK * STEP * fps)
    if min(len(samples) // (STACK * STEP), len(face)) < 2:
      raise BadInput(f"{sound} and {file} must last two frames at least, so that one can choose")
    heard = frames(samples, fps)
    if abs(len(heard) - len(face)) > APART:
      raise BadInput(
        f"{sound} lasts {len(heard)} frames at {fps} a second, and {file} has {len(face)}. "
        "Is --fps another, or was one of them cut?"
      )
    n = min(len(heard), len(face))
    takes.append(Take(stem, heard[:n], face[:n]))
  return takes


def _array(file: File) -> np.ndarray:
  face = array(file)
  if face.ndim != 2 or face.dtype.kind not in "fiu" or not face.size:
    raise BadInput(f"{file} must be numbers [T, C]; it is {face.dtype} {face.shape}")
  with np.errstate(over="ignore"):
    face = face.astype(np.float32)
  if not np.isfinite(face).all():
    row = int(np.flatnonzero(~np.isfinite(face).all(1))[0])
    raise BadInput(f"{file} has a value that is no finite number in frame {row}")
  return face


def _generated(fps: int, number: int = 24, T: int = 600) -> list[Take]:
  """Four pitches that come and go, and four channels that follow them.

  A channel is pulled as a spring is, towards what the sound will be a fifth of a second later, as
  lips close before a p is heard; so what a channel does now is in part decided by what is not yet
  to be heard, and in part by all that was. A recording ends in silence.
  """
  draw, takes = np.random.default_rng(0), []
  ahead, N = fps // 5, STACK * STEP
  mix = draw.uniform(-1, 1, (4, 4))
  for n in range(number):
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
    takes.append(Take(f"{n:02}", frames(samples.astype(np.float32), fps), np.float32(face)))
  return takes

"""Spoken words and strings of them: the Free Spoken Digit Dataset, or a small generated set.

  embedded   glides and tones that swell and fade, of three whistlers
  files      a folder or .zip archive of recordings, DIGIT_SPEAKER_INDEX.wav, such as 7_lucas_31.wav

Of each digit's recordings by a speaker those of index 0 to 4 are the official test part, 5 to 9
choose. Where a speaker is held out, he is the whole test part.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import signal

from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import contents, given
from rnnjax.data.log_mel import log_mel, read, stacked
from rnnjax.data.standardize import Scale
from rnnjax.types import BadInput

DIGITS = tuple("zero one two three four five six seven eight nine".split())
GLIDES = {"rise": (1, 2), "fall": (2, 1), "low": (1, 1), "high": (2, 2), "leap": (1, 3)}
RATE = 8000  # samples a second
STEP, STACK = RATE // 100, 3  # samples of 10 ms, of which a net reads three at once
SHORT, LONG = 0.1, 30  # seconds of a recording, at least and at most
TAKES = 40  # generated recordings of each word by each whistler


class Recording(NamedTuple):
  """One word: its samples [N], which word it is, and whose."""

  samples: np.ndarray
  word: int
  speaker: str


class Utterance(NamedTuple):
  """One or more words: the samples [N], and which words [U] they are."""

  samples: np.ndarray
  words: np.ndarray


class Recordings(NamedTuple):
  """Recordings in three parts, and how their words are written."""

  name: str
  words: tuple[str, ...]
  train: list[Recording]
  valid: list[Recording]
  test: list[Recording]


def load(dataset: str = "auto", data_dir: str = "", hold_out: str = "") -> Recordings:
  """Loads recordings of words.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive.
    hold_out: a speaker who is tested, and not heard before; "" for the official test part.

  Raises:
    BadInput: files that are missing, misnamed or damaged; a speaker or a part that is not there.
  """
  if given(dataset, data_dir, "generated sounds", "PATH reads recordings of digits"):
    name, words, numbered = "fsdd", DIGITS, _files(data_dir)
  else:
    name, words, numbered = "embedded", tuple(GLIDES), _whistled()
  speakers = sorted({recording.speaker for _, recording in numbered})
  if hold_out and hold_out not in speakers:
    raise BadInput(f"--hold_out must be one of {', '.join(speakers)}; got {hold_out!r}")
  parts = {"train": [], "valid": [], "test": []}
  for index, recording in numbered:
    tested = recording.speaker == hold_out if hold_out else index < 5
    parts["test" if tested else "valid" if 5 <= index < 10 else "train"].append(recording)
  for part, recordings in parts.items():
    missing = {*words} - {words[recording.word] for recording in recordings}
    if missing:
      raise BadInput(
        f"{data_dir} has no recording of {', '.join(sorted(missing))} for the {part} part. "
        "Recordings 0 to 4 of a word by a speaker are tested, 5 to 9 choose, others train"
      )
  return Recordings(name, words, **parts)


def strings(
  recordings: list[Recording], number: int, low: int, high: int, seed: int, tempo: float = 0.0
) -> Iterator[Utterance]:
  """Strings of low to high words by one speaker each, with pauses and faint noise.

  Args:
    recordings: what they are made of.
    number: how many.
    low, high: the fewest and the most words.
    seed: of all that is drawn.
    tempo: each recording is played faster or slower, up to this share, and so higher or lower.

  Raises:
    BadInput: low is more than high.
  """
  if low > high:
    raise BadInput(f"--fewest must be at most --most; got {low} and {high}")
  draw, spoken = np.random.default_rng(seed), {}
  for recording in recordings:
    spoken.setdefault(recording.speaker, []).append(recording)
  speakers = list(spoken.values())
  for _ in range(number):
    own = speakers[draw.integers(len(speakers))]
    chosen = [own[i] for i in draw.integers(len(own), size=draw.integers(low, high + 1))]
    pause = lambda: np.zeros(int(RATE * max(0, draw.uniform(-0.2, 0.3))), np.float32)
    pieces = [pause()]
    for recording in chosen:
      percent = 100 + round(100 * tempo * draw.uniform(-1, 1))
      pieces += [signal.resample_poly(recording.samples, percent, 100), pause()]
    samples = np.concatenate(pieces)
    noise = samples.std() * 10 ** draw.uniform(-3, -1.5)
    samples += noise * draw.standard_normal(len(samples), np.float32)
    words = np.array([recording.word for recording in chosen], np.int32)
    yield Utterance(samples.astype(np.float32), words)


def alone(recordings: list[Recording]) -> Iterator[Utterance]:
  """Each recording as it is."""
  return (Utterance(one.samples, np.array([one.word], np.int32)) for one in recordings)


def examples(utterances: Iterable[Utterance]) -> list[tuple[np.ndarray, np.ndarray]]:
  """What a net reads, [T, F], however loud it is, and the labels [U]: words from 1 on, blank 0."""
  rows = []
  for samples, words in utterances:
    samples = samples / np.sqrt(np.mean(samples**2) + 1e-9)
    rows.append((stacked(log_mel(samples, RATE, STEP), STACK), 1 + words))
  return rows


def batches(scale: Scale, size: int, rows, seed: int | None = None) -> Batches:
  """Examples as batches, what is read scaled."""
  xs, labels = zip(*rows)
  return Batches([scale(x) for x in xs], None, size, buckets=5, seed=seed, targets=labels)


def _files(data_dir: str) -> list[tuple[int, Recording]]:
  """Every recording and its index."""
  sounds = [file for file in contents(data_dir) if re.fullmatch(r"[^.].*\.wav", file.name)]
  if not sounds:
    raise BadInput(f"{data_dir} must hold recordings such as 7_lucas_31.wav; it holds no .wav file")
  made = []
  for file in sounds:
    named = re.fullmatch(r"([0-9])_([^_]+)_([0-9]{1,9})\.wav", file.name)
    if not named:
      raise BadInput(f"{file} must be named DIGIT_SPEAKER_INDEX.wav, such as 7_lucas_31.wav")
    samples = read(file, RATE)
    if not SHORT * RATE <= len(samples) <= LONG * RATE:
      raise BadInput(
        f"{file} must last {SHORT} to {LONG} s to be a word; it lasts {len(samples) / RATE:.2f} s"
      )
    made.append((int(named[3]), Recording(samples, int(named[1]), named[2])))
  return made


def _whistled() -> list[tuple[int, Recording]]:
  """Glides from one pitch to another, each as long as it likes.

  What rises has the pitches of what falls: only their order tells which is which.
  """
  made, draw = [], np.random.default_rng(0)
  for speaker, base in (("alto", 400), ("mezzo", 500), ("soprano", 600)):
    for word, (start, stop) in enumerate(GLIDES.values()):
      for index in range(TAKES):
        n = draw.integers(int(0.1 * RATE), int(0.3 * RATE))
        pitch = base * draw.uniform(0.9, 1.1) * np.geomspace(start, stop, n)
        samples = np.hanning(n) * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
        samples += 0.01 * draw.standard_normal(n)
        made.append((index, Recording(samples.astype(np.float32), word, speaker)))
  return made

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

from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import list_files, use_files
from rnnjax.data.log_mel import log_mel, read_wav, stack_frames
from rnnjax.data.standardize import Standardizer
from rnnjax.types import InvalidInputError

DIGITS = tuple("zero one two three four five six seven eight nine".split())
GLIDES = {"rise": (1, 2), "fall": (2, 1), "low": (1, 1), "high": (2, 2), "leap": (1, 3)}
SAMPLE_RATE = 8000  # samples a second
HOP_LENGTH, FRAME_STACK = (
  SAMPLE_RATE // 100,
  3,
)  # samples of 10 ms, of which a net reads three at once
MIN_SECONDS, MAX_SECONDS = 0.1, 30  # seconds of a recording, at least and at most
RECORDINGS_PER_WORD = 40  # generated recordings of each word by each whistler


class Recording(NamedTuple):
  """One word: its samples [N], which word it is, and whose."""

  samples: np.ndarray
  word: int
  speaker: str


class Utterance(NamedTuple):
  """One or more words: the samples [N], and which words [U] they are."""

  samples: np.ndarray
  words: np.ndarray


class SpeechDataset(NamedTuple):
  """Recordings in three parts, and how their words are written."""

  name: str
  words: tuple[str, ...]
  train: list[Recording]
  valid: list[Recording]
  test: list[Recording]


def load(dataset: str = "auto", data_dir: str = "", test_speaker: str = "") -> SpeechDataset:
  """Loads recordings of words.

  Args:
    dataset: one of files.DATASETS; "auto" is files where data_dir is given, else embedded.
    data_dir: the folder or archive.
    hold_out: a speaker who is tested, and not heard before; "" for the official test part.

  Raises:
    BadInput: files that are missing, misnamed or damaged; a speaker or a part that is not there.
  """
  if use_files(dataset, data_dir, "generated sounds", "PATH reads recordings of digits"):
    name, words, numbered = "fsdd", DIGITS, _read_recordings(data_dir)
  else:
    name, words, numbered = "embedded", tuple(GLIDES), _generate_recordings()
  speakers = sorted({recording.speaker for _, recording in numbered})
  if test_speaker and test_speaker not in speakers:
    raise InvalidInputError(
      f"--test_speaker must be one of {', '.join(speakers)}; got {test_speaker!r}"
    )
  parts = {"train": [], "valid": [], "test": []}
  for index, recording in numbered:
    tested = recording.speaker == test_speaker if test_speaker else index < 5
    parts["test" if tested else "valid" if 5 <= index < 10 else "train"].append(recording)
  for part, recordings in parts.items():
    missing = {*words} - {words[recording.word] for recording in recordings}
    if missing:
      raise InvalidInputError(
        f"{data_dir} has no recording of {', '.join(sorted(missing))} for the {part} part. "
        "Recordings 0 to 4 of a word by a speaker are tested, 5 to 9 choose, others train"
      )
  return SpeechDataset(name, words, **parts)


def sample_utterances(
  recordings: list[Recording],
  num_utterances: int,
  min_words: int,
  max_words: int,
  seed: int,
  speed_perturbation: float = 0.0,
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
  if min_words > max_words:
    raise InvalidInputError(
      f"--min_test_words must be at most --max_words; got {min_words} and {max_words}"
    )
  draw, spoken = np.random.default_rng(seed), {}
  for recording in recordings:
    spoken.setdefault(recording.speaker, []).append(recording)
  speakers = list(spoken.values())
  for _ in range(num_utterances):
    own = speakers[draw.integers(len(speakers))]
    chosen = [own[i] for i in draw.integers(len(own), size=draw.integers(min_words, max_words + 1))]
    pause = lambda: np.zeros(int(SAMPLE_RATE * max(0, draw.uniform(-0.2, 0.3))), np.float32)
    pieces = [pause()]
    for recording in chosen:
      percent = 100 + round(100 * speed_perturbation * draw.uniform(-1, 1))
      pieces += [signal.resample_poly(recording.samples, percent, 100), pause()]
    samples = np.concatenate(pieces)
    noise = samples.std() * 10 ** draw.uniform(-3, -1.5)
    samples += noise * draw.standard_normal(len(samples), np.float32)
    words = np.array([recording.word for recording in chosen], np.int32)
    yield Utterance(samples.astype(np.float32), words)


def single_word_utterances(recordings: list[Recording]) -> Iterator[Utterance]:
  """Each recording as it is."""
  return (Utterance(one.samples, np.array([one.word], np.int32)) for one in recordings)


def make_examples(utterances: Iterable[Utterance]) -> list[tuple[np.ndarray, np.ndarray]]:
  """What a net reads, [T, F], however loud it is, and the labels [U]: words from 1 on, blank 0."""
  rows = []
  for samples, words in utterances:
    samples = samples / np.sqrt(np.mean(samples**2) + 1e-9)
    rows.append((stack_frames(log_mel(samples, SAMPLE_RATE, HOP_LENGTH), FRAME_STACK), 1 + words))
  return rows


def make_batches(
  scale: Standardizer, batch_size: int, labeled_features, seed: int | None = None
) -> BucketedBatches:
  """Examples as batches, what is read scaled."""
  xs, labels = zip(*labeled_features)
  return BucketedBatches(
    [scale(x) for x in xs], None, batch_size, max_buckets=5, seed=seed, targets=labels
  )


def _read_recordings(data_dir: str) -> list[tuple[int, Recording]]:
  """Every recording and its index."""
  sounds = [file for file in list_files(data_dir) if re.fullmatch(r"[^.].*\.wav", file.name)]
  if not sounds:
    raise InvalidInputError(
      f"{data_dir} must hold recordings such as 7_lucas_31.wav; it holds no .wav file"
    )
  made = []
  for file in sounds:
    named = re.fullmatch(r"([0-9])_([^_]+)_([0-9]{1,9})\.wav", file.name)
    if not named:
      raise InvalidInputError(
        f"{file} must be named DIGIT_SPEAKER_INDEX.wav, such as 7_lucas_31.wav"
      )
    samples = read_wav(file, SAMPLE_RATE)
    if not MIN_SECONDS * SAMPLE_RATE <= len(samples) <= MAX_SECONDS * SAMPLE_RATE:
      raise InvalidInputError(
        f"{file} must last {MIN_SECONDS} to {MAX_SECONDS} s to be a word; it lasts {len(samples) / SAMPLE_RATE:.2f} s"
      )
    made.append((int(named[3]), Recording(samples, int(named[1]), named[2])))
  return made


def _generate_recordings() -> list[tuple[int, Recording]]:
  """Glides from one pitch to another, each as long as it likes.

  What rises has the pitches of what falls: only their order tells which is which.
  """
  made, draw = [], np.random.default_rng(0)
  for speaker, base in (("alto", 400), ("mezzo", 500), ("soprano", 600)):
    for word, (start, stop) in enumerate(GLIDES.values()):
      for index in range(RECORDINGS_PER_WORD):
        n = draw.integers(int(0.1 * SAMPLE_RATE), int(0.3 * SAMPLE_RATE))
        pitch = base * draw.uniform(0.9, 1.1) * np.geomspace(start, stop, n)
        samples = np.hanning(n) * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
        samples += 0.01 * draw.standard_normal(n)
        made.append((index, Recording(samples.astype(np.float32), word, speaker)))
  return made

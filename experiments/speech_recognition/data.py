"""Recordings of single words, and utterances composed of several recordings.

  embedded   generated tones and glides of three speakers
  files      the Free Spoken Digit Dataset: a folder or .zip archive of recordings
             DIGIT_SPEAKER_INDEX.wav, such as 7_lucas_31.wav

INDEX numbers the recordings of one digit by one speaker. Recordings with indices 0 to 4 are the
official test set, 5 to 9 the validation set, and larger indices the training set. If a test speaker
is specified, all recordings of this speaker are the test set, and recordings 0 to 4 of the other
speakers are added to the training set.
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
# {word: (start pitch, end pitch)} of the generated words, relative to the pitch of the speaker.
GLIDES = {"rise": (1, 2), "fall": (2, 1), "low": (1, 1), "high": (2, 2), "leap": (1, 3)}
SAMPLE_RATE = 8000  # Hz
HOP_LENGTH = SAMPLE_RATE // 100  # samples per frame (10 ms)
FRAME_STACK = 3  # feature frames per model step
MIN_SECONDS = 0.1  # minimum duration of a recording
MAX_SECONDS = 30
RECORDINGS_PER_WORD = 40  # generated recordings of each word by each speaker


class Recording(NamedTuple):
  """A recording of one word.

  Attributes:
    samples: the audio samples [N], in [-1, 1].
    word: the index of the word.
    speaker: the name of the speaker.
  """

  samples: np.ndarray
  word: int
  speaker: str


class Utterance(NamedTuple):
  """Audio of one or more words.

  Attributes:
    samples: the audio samples [N].
    words: the indices [U] of the words.
  """

  samples: np.ndarray
  words: np.ndarray


class SpeechDataset(NamedTuple):
  """Recordings in three splits.

  Attributes:
    name: the name of the data set.
    words: the vocabulary; index i means words[i].
    train: the training set.
    valid: the validation set.
    test: the test set.
  """

  name: str
  words: tuple[str, ...]
  train: list[Recording]
  valid: list[Recording]
  test: list[Recording]


def load(dataset: str = "auto", data_dir: str = "", test_speaker: str = "") -> SpeechDataset:
  """Load recordings of words.

  Args:
    dataset: one of files.DATASETS. "auto" reads files if data_dir is non-empty, else it uses the
      embedded data.
    data_dir: the folder or .zip archive of the recordings.
    test_speaker: the speaker whose recordings are the test set; "" for the official split.

  Raises:
    InvalidInputError: files are missing, misnamed or damaged, the speaker does not exist, or a
      word has no recording in one of the splits.
  """
  if use_files(dataset, data_dir, "generated sounds", "PATH reads recordings of digits"):
    name, words, indexed_recordings = "fsdd", DIGITS, _read_recordings(data_dir)
  else:
    name, words, indexed_recordings = "embedded", tuple(GLIDES), _generate_recordings()
  speakers = sorted({recording.speaker for _, recording in indexed_recordings})
  if test_speaker and test_speaker not in speakers:
    raise InvalidInputError(
      f"--test_speaker must be one of {', '.join(speakers)}; got {test_speaker!r}"
    )
  splits = {"train": [], "valid": [], "test": []}
  for index, recording in indexed_recordings:
    is_test = recording.speaker == test_speaker if test_speaker else index < 5
    if is_test:
      splits["test"].append(recording)
    elif 5 <= index < 10:
      splits["valid"].append(recording)
    else:
      splits["train"].append(recording)
  for split, recordings in splits.items():
    missing = {*words} - {words[recording.word] for recording in recordings}
    if missing:
      raise InvalidInputError(
        f"{data_dir} has no recording of {', '.join(sorted(missing))} for the {split} split. "
        "Recordings 0 to 4 of a word by a speaker are the test set, 5 to 9 the validation set"
      )
  return SpeechDataset(name, words, **splits)


def sample_utterances(
  recordings: list[Recording],
  num_utterances: int,
  min_words: int,
  max_words: int,
  seed: int,
  speed_perturbation: float = 0.0,
) -> Iterator[Utterance]:
  """Yield random utterances with faint noise.

  An utterance consists of recordings of one speaker, separated by pauses.

  Args:
    recordings: the recordings to sample from.
    num_utterances: the number of utterances to yield.
    min_words: the smallest number of words per utterance.
    max_words: the largest number of words per utterance.
    seed: the seed of the random generator.
    speed_perturbation: the largest relative change of the speed of a recording. A faster recording
      also has a higher pitch.

  Raises:
    InvalidInputError: min_words is larger than max_words.
  """
  if min_words > max_words:
    raise InvalidInputError(
      f"--min_test_words must be at most --max_words; got {min_words} and {max_words}"
    )
  rng = np.random.default_rng(seed)
  by_speaker = {}
  for recording in recordings:
    by_speaker.setdefault(recording.speaker, []).append(recording)
  speakers = list(by_speaker.values())
  for _ in range(num_utterances):
    pool = speakers[rng.integers(len(speakers))]
    chosen = [pool[i] for i in rng.integers(len(pool), size=rng.integers(min_words, max_words + 1))]
    pieces = [_draw_pause(rng)]
    for recording in chosen:
      percent = 100 + round(100 * speed_perturbation * rng.uniform(-1, 1))
      pieces += [signal.resample_poly(recording.samples, percent, 100), _draw_pause(rng)]
    samples = np.concatenate(pieces)
    noise_std = samples.std() * 10 ** rng.uniform(-3, -1.5)
    samples += noise_std * rng.standard_normal(len(samples), np.float32)
    words = np.array([recording.word for recording in chosen], np.int32)
    yield Utterance(samples.astype(np.float32), words)


def _draw_pause(rng: np.random.Generator) -> np.ndarray:
  """Return silent audio samples of random duration, at most 0.3 s, and 0 s with probability 0.4."""
  return np.zeros(int(SAMPLE_RATE * max(0, rng.uniform(-0.2, 0.3))), np.float32)


def single_word_utterances(recordings: list[Recording]) -> Iterator[Utterance]:
  """Yield each recording as an utterance of one word."""
  return (
    Utterance(recording.samples, np.array([recording.word], np.int32)) for recording in recordings
  )


def make_examples(utterances: Iterable[Utterance]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return a pair (stacked log-mel features [T, F], labels [U]) for each utterance.

  Each utterance is normalized to the same volume. The labels are the word indices plus 1, because
  label 0 is the CTC blank.
  """
  examples = []
  for samples, words in utterances:
    samples = samples / np.sqrt(np.mean(samples**2) + 1e-9)
    examples.append(
      (stack_frames(log_mel(samples, SAMPLE_RATE, HOP_LENGTH), FRAME_STACK), 1 + words)
    )
  return examples


def make_batches(
  scale: Standardizer, batch_size: int, labeled_features, seed: int | None = None
) -> BucketedBatches:
  """Standardize the features of (features, labels) pairs with `scale`, and batch the pairs."""
  xs, labels = zip(*labeled_features)
  return BucketedBatches(
    [scale(x) for x in xs], None, batch_size, max_buckets=5, seed=seed, targets=labels
  )


def _read_recordings(data_dir: str) -> list[tuple[int, Recording]]:
  """Return a pair (INDEX of the file name, recording) for every .wav file."""
  wav_files = [file for file in list_files(data_dir) if re.fullmatch(r"[^.].*\.wav", file.name)]
  if not wav_files:
    raise InvalidInputError(
      f"{data_dir} must contain recordings such as 7_lucas_31.wav; it contains no .wav file"
    )
  indexed_recordings = []
  for file in wav_files:
    match = re.fullmatch(r"([0-9])_([^_]+)_([0-9]{1,9})\.wav", file.name)
    if not match:
      raise InvalidInputError(
        f"{file} must be named DIGIT_SPEAKER_INDEX.wav, such as 7_lucas_31.wav"
      )
    samples = read_wav(file, SAMPLE_RATE)
    if not MIN_SECONDS * SAMPLE_RATE <= len(samples) <= MAX_SECONDS * SAMPLE_RATE:
      raise InvalidInputError(
        f"{file} must be a word of {MIN_SECONDS} to {MAX_SECONDS} s; "
        f"it lasts {len(samples) / SAMPLE_RATE:.2f} s"
      )
    indexed_recordings.append((int(match[3]), Recording(samples, int(match[1]), match[2])))
  return indexed_recordings


def _generate_recordings() -> list[tuple[int, Recording]]:
  """Generate a pair (index, recording) for each word, speaker and index.

  A recording is a glide of random duration between two pitches. The words "rise" and "fall" have
  the same two pitches in opposite order.
  """
  indexed_recordings = []
  rng = np.random.default_rng(0)
  for speaker, base_pitch in (("alto", 400), ("mezzo", 500), ("soprano", 600)):
    for word, (start, stop) in enumerate(GLIDES.values()):
      for index in range(RECORDINGS_PER_WORD):
        n = rng.integers(int(0.1 * SAMPLE_RATE), int(0.3 * SAMPLE_RATE))
        pitch = base_pitch * rng.uniform(0.9, 1.1) * np.geomspace(start, stop, n)
        samples = np.hanning(n) * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
        samples += 0.01 * rng.standard_normal(n)
        indexed_recordings.append((index, Recording(samples.astype(np.float32), word, speaker)))
  return indexed_recordings

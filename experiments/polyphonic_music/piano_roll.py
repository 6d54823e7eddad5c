"""Piano rolls: which of a piano's 88 keys sound at each step."""

from collections.abc import Sequence

import numpy as np

from rnnjax.types import InvalidInputError

NUM_KEYS, LOWEST_PITCH = 88, 21  # of a piano, and the MIDI pitch of the lowest
PianoRolls = list[np.ndarray]


def pitches_to_roll(pitches: Sequence[Sequence[int]], location: str = "a piece") -> np.ndarray:
  """The roll [T, 88] of the MIDI pitches that sound at each step.

  Raises:
    BadInput: a pitch that a piano lacks.
  """
  made = np.zeros((len(pitches), NUM_KEYS), np.float32)
  for t, some in enumerate(pitches):
    for pitch in some:
      if not (pitch == int(pitch) and LOWEST_PITCH <= pitch < LOWEST_PITCH + NUM_KEYS):
        raise InvalidInputError(
          f"{location}, step {t + 1}: a pitch must be a whole number from {LOWEST_PITCH} to "
          f"{LOWEST_PITCH + NUM_KEYS - 1}, as MIDI numbers a piano's keys; got {pitch}"
        )
      made[t, int(pitch) - LOWEST_PITCH] = 1
  return made


def validate_roll(roll, location: str) -> np.ndarray:
  """A roll as float32.

  Raises:
    BadInput: it is not [T, 88] of 0 and 1, or has no second step that could be foretold.
  """
  roll = np.asarray(roll)
  if roll.ndim != 2 or roll.shape[1] != NUM_KEYS or len(roll) < 2 or roll.dtype.kind not in "buif":
    raise InvalidInputError(
      f"{location} must be [T, {NUM_KEYS}], 2 or more steps of {NUM_KEYS} keys, and numbers; got "
      f"{roll.dtype} {list(roll.shape)}. "
      "Are its axes swapped, or is it a matrix of something else?"
    )
  wrong = np.argwhere((roll != 0) & (roll != 1))
  if len(wrong):
    t, key = wrong[0]
    raise InvalidInputError(
      f"{location}, step {t + 1}, key {key + 1}: must be 0 or 1, silent or not; got {roll[t, key]}. "
      "Are these loudnesses?"
    )
  return roll.astype(np.float32)


def transpose_rolls(rolls: PianoRolls, max_transpose: int) -> PianoRolls:
  """The rolls in their own keys, and up to `most` semitones lower and higher, as far as the piano
  reaches."""
  lost = lambda one, n: one[:, max(NUM_KEYS - n, 0) :] if n > 0 else one[:, :-n]
  shifts = range(-max_transpose, max_transpose + 1)
  return [np.roll(one, n, 1) for n in shifts for one in rolls if not (n and lost(one, n).any())]

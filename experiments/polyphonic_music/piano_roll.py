"""Piano rolls: which of a piano's 88 keys sound at each step."""

from collections.abc import Sequence

import numpy as np

from rnnjax.types import BadInput

KEYS, LOWEST = 88, 21  # of a piano, and the MIDI pitch of the lowest
Rolls = list[np.ndarray]


def roll(pitches: Sequence[Sequence[int]], place: str = "a piece") -> np.ndarray:
  """The roll [T, 88] of the MIDI pitches that sound at each step.

  Raises:
    BadInput: a pitch that a piano lacks.
  """
  made = np.zeros((len(pitches), KEYS), np.float32)
  for t, some in enumerate(pitches):
    for pitch in some:
      if not (pitch == int(pitch) and LOWEST <= pitch < LOWEST + KEYS):
        raise BadInput(
          f"{place}, step {t + 1}: a pitch must be a whole number from {LOWEST} to "
          f"{LOWEST + KEYS - 1}, as MIDI numbers a piano's keys; got {pitch}"
        )
      made[t, int(pitch) - LOWEST] = 1
  return made


def checked(roll, place: str) -> np.ndarray:
  """A roll as float32.

  Raises:
    BadInput: it is not [T, 88] of 0 and 1, or has no second step that could be foretold.
  """
  roll = np.asarray(roll)
  if roll.ndim != 2 or roll.shape[1] != KEYS or len(roll) < 2 or roll.dtype.kind not in "buif":
    raise BadInput(
      f"{place} must be [T, {KEYS}], 2 or more steps of {KEYS} keys, and numbers; got "
      f"{roll.dtype} {list(roll.shape)}. "
      "Are its axes swapped, or is it a matrix of something else?"
    )
  wrong = np.argwhere((roll != 0) & (roll != 1))
  if len(wrong):
    t, key = wrong[0]
    raise BadInput(
      f"{place}, step {t + 1}, key {key + 1}: must be 0 or 1, silent or not; got {roll[t, key]}. "
      "Are these loudnesses?"
    )
  return roll.astype(np.float32)


def transposed(rolls: Rolls, most: int) -> Rolls:
  """The rolls in their own keys, and up to `most` semitones lower and higher, as far as the piano
  reaches."""
  lost = lambda one, n: one[:, max(KEYS - n, 0) :] if n > 0 else one[:, :-n]
  shifts = range(-most, most + 1)
  return [np.roll(one, n, 1) for n in shifts for one in rolls if not (n and lost(one, n).any())]

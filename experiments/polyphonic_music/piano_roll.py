"""Piano rolls: arrays [T, 88] that are 1 where a piano key sounds, else 0."""

from collections.abc import Sequence

import numpy as np

from rnnjax.types import InvalidInputError

NUM_KEYS = 88
LOWEST_PITCH = 21  # the MIDI pitch of the lowest key, A0
PianoRolls = list[np.ndarray]


def pitches_to_roll(pitches: Sequence[Sequence[int]], location: str = "a piece") -> np.ndarray:
  """Convert the MIDI pitches of each step to a piano roll [T, 88].

  Args:
    pitches: one sequence of MIDI pitches per step.
    location: the name of the piece in error messages.

  Raises:
    InvalidInputError: a pitch is not an integer, or is outside the range of a piano.
  """
  roll = np.zeros((len(pitches), NUM_KEYS), np.float32)
  for t, step_pitches in enumerate(pitches):
    for pitch in step_pitches:
      if not (pitch == int(pitch) and LOWEST_PITCH <= pitch < LOWEST_PITCH + NUM_KEYS):
        raise InvalidInputError(
          f"{location}, step {t + 1}: a pitch must be an integer from {LOWEST_PITCH} to "
          f"{LOWEST_PITCH + NUM_KEYS - 1}, the MIDI pitches of a piano; got {pitch}"
        )
      roll[t, int(pitch) - LOWEST_PITCH] = 1
  return roll


def validate_roll(roll, location: str) -> np.ndarray:
  """Check a piano roll and convert it to float32.

  Args:
    roll: the piano roll.
    location: the beginning of error messages, such as the file and piece.

  Raises:
    InvalidInputError: the roll is not an array [T, 88] of 0 and 1, or has fewer than two steps. A
      single step cannot be predicted from an earlier step.
  """
  roll = np.asarray(roll)
  if roll.ndim != 2 or roll.shape[1] != NUM_KEYS or len(roll) < 2 or roll.dtype.kind not in "buif":
    raise InvalidInputError(
      f"{location} must be a numeric array [T, {NUM_KEYS}] with T of 2 or more; got "
      f"{roll.dtype} {list(roll.shape)}. Are its axes swapped?"
    )
  invalid = np.argwhere((roll != 0) & (roll != 1))
  if len(invalid):
    t, key = invalid[0]
    raise InvalidInputError(
      f"{location}, step {t + 1}, key {key + 1}: must be 0 (silent) or 1 (sounding); "
      f"got {roll[t, key]}. Are the values velocities?"
    )
  return roll.astype(np.float32)


def transpose_rolls(rolls: PianoRolls, max_transpose: int) -> PianoRolls:
  """Return all transpositions of the rolls by −max_transpose to max_transpose semitones.

  Transpositions that move a note outside the range of the piano are omitted.
  """
  shifts = range(-max_transpose, max_transpose + 1)
  return [np.roll(roll, n, 1) for n in shifts for roll in rolls if _can_shift(roll, n)]


def _can_shift(roll: np.ndarray, n: int) -> bool:
  """Return whether all notes of a roll stay in the piano's range if transposed by n semitones."""
  lost = roll[:, max(NUM_KEYS - n, 0) :] if n > 0 else roll[:, :-n]
  return n == 0 or not lost.any()

"""Piano rolls from and to MIDI files."""

import pathlib

import mido
import numpy as np

from rnnjax.data.piano import KEYS, LOWEST
from rnnjax.types import BadInput

BEAT, LOUD = 480, 80  # ticks of a quarter note, and how hard a key is struck


def write(path: str | pathlib.Path, roll: np.ndarray, steps: float = 1.0, tempo: float = 90.0):
  """Writes a roll [T, 88]; a key that sounds on at the next step is held.

  Args:
    path: where to.
    roll: of 0 and 1.
    steps: of the roll in a quarter note.
    tempo: quarter notes a minute.
  """
  track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
  silent, last = np.zeros((1, KEYS)), 0
  changes = np.diff(roll, axis=0, prepend=silent, append=silent)
  for t, key in np.argwhere(changes):
    kind = "note_on" if changes[t, key] > 0 else "note_off"
    now, pitch = round(t * BEAT / steps), int(key) + LOWEST
    track.append(mido.Message(kind, note=pitch, velocity=LOUD, time=now - last))
    last = now
  mido.MidiFile(ticks_per_beat=BEAT, tracks=[track]).save(path)


def read(path: str | pathlib.Path, steps: float = 1.0) -> np.ndarray:
  """Reads a roll [T, 88]: which keys sound in the middle of each step. Drums are left out.

  Raises:
    BadInput: no MIDI file, a damaged one, or one without a note that a piano has.
  """
  try:
    file = mido.MidiFile(path, clip=True)
    tick = steps / file.ticks_per_beat
  except Exception as error:  # of any class, by where the damage is
    raise BadInput(f"{path} cannot be read as a MIDI file: {error}. Was it cut off?") from None
  now, begun, notes = 0, {}, []
  for message in mido.merge_tracks(file.tracks):
    now += message.time * tick
    if message.type not in ("note_on", "note_off") or message.channel == 9:
      continue
    voice = message.channel, message.note
    if voice in begun:
      notes.append((message.note - LOWEST, begun.pop(voice), now))
    if message.type == "note_on" and message.velocity:
      begun[voice] = now
  notes = [note for note in notes if 0 <= note[0] < KEYS]
  if not notes:
    raise BadInput(f"{path} must have a note between A0 and C8; it has none")
  roll = np.zeros((max(1, round(max(end for *_, end in notes))), KEYS), np.float32)
  for key, start, end in notes:
    roll[round(start) : round(end), key] = 1
  return roll

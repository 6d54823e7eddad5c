"""Piano rolls from and to MIDI files."""

import io
import math
import pathlib
import re

import mido
import numpy as np

from experiments.polyphonic_music.piano_roll import LOWEST_PITCH, NUM_KEYS
from rnnjax.data.files import read_bytes, reraise_decode_errors
from rnnjax.types import InvalidInputError

TICKS_PER_BEAT, VELOCITY = 480, 80  # ticks of a quarter note, and how hard a key is struck
MAX_STEPS = 1_000_000  # steps
MAX_HIGH_BYTES = (
  4096  # bytes above 127 that may follow one another, as those of a text of some scripts do
)


def write_midi(
  path: str | pathlib.Path, roll: np.ndarray, steps_per_quarter: float = 1.0, tempo: float = 90.0
):
  """Writes a roll [T, 88]; a key that sounds on at the next step is held.

  Args:
    path: where to.
    roll: of 0 and 1.
    steps: of the roll in a quarter note.
    tempo: quarter notes a minute.
  """
  track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
  silent, last = np.zeros((1, NUM_KEYS)), 0
  changes = np.diff(roll, axis=0, prepend=silent, append=silent)
  for t, key in np.argwhere(changes):
    kind = "note_on" if changes[t, key] > 0 else "note_off"
    now, pitch = round(t * TICKS_PER_BEAT / steps_per_quarter), int(key) + LOWEST_PITCH
    track.append(mido.Message(kind, note=pitch, velocity=VELOCITY, time=now - last))
    last = now
  mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, tracks=[track]).save(path)


def read_midi(path: str | pathlib.Path, steps_per_quarter: float = 1.0) -> np.ndarray:
  """Reads a roll [T, 88]: which keys sound in the middle of each step. Drums are left out.

  Raises:
    BadInput: no MIDI file, a damaged one, or one without a note that a piano has.
  """
  data = read_bytes(pathlib.Path(path).expanduser())
  run = max(map(len, re.findall(rb"[\x80-\xff]+", data)), default=0)
  if run > MAX_HIGH_BYTES:  # mido would take it for one number, in a time that grows as its square
    raise InvalidInputError(
      f"{path} is no MIDI file: {run} bytes follow one another that are above 127"
    )
  with reraise_decode_errors(
    path, "as a MIDI file", "Was it cut off?", LookupError, mido.KeySignatureError
  ):
    file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    if file.ticks_per_beat < 1:
      raise ValueError("its time is that of films (SMPTE), and not of quarter notes")
    notes = _read_notes(file, steps_per_quarter / file.ticks_per_beat)
  if not notes:
    raise InvalidInputError(f"{path} must have a note between A0 and C8; it has none")
  last = max(end for *_, end in notes)
  if last > MAX_STEPS:
    raise InvalidInputError(f"{path} must last {MAX_STEPS} steps at most; it lasts {last:.3g}")
  step = lambda time: math.ceil(time - 0.5)  # the first whose middle is not before it
  roll = np.zeros((max(1, step(last)), NUM_KEYS), np.float32)
  for key, start, end in notes:
    roll[step(start) : step(end), key] = 1
  return roll


def _read_notes(file: mido.MidiFile, steps_per_tick: float) -> list[tuple[int, float, float]]:
  """Key, beginning and end, in steps, of each note that a piano has; what nobody ends, the end
  does."""
  ticks, now, begun, notes = 0, 0.0, {}, []
  for message in mido.merge_tracks(file.tracks):
    ticks += message.time
    now = ticks * steps_per_tick
    if message.type not in ("note_on", "note_off") or message.channel == 9:
      continue
    voice = message.channel, message.note
    if voice in begun:
      notes.append((message.note - LOWEST_PITCH, begun.pop(voice), now))
    if message.type == "note_on" and message.velocity:
      begun[voice] = now
  notes += [(note - LOWEST_PITCH, start, now) for (_, note), start in begun.items()]
  return [note for note in notes if 0 <= note[0] < NUM_KEYS]

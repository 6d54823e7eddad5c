"""Conversion between piano rolls and MIDI files."""

import io
import math
import pathlib
import re

import mido
import numpy as np

from experiments.polyphonic_music.piano_roll import LOWEST_PITCH, NUM_KEYS
from rnnjax.data.files import read_bytes, reraise_decode_errors
from rnnjax.types import InvalidInputError

TICKS_PER_BEAT = 480  # MIDI ticks per quarter note
VELOCITY = 80  # velocity of all written notes, in the range 1 to 127
MAX_STEPS = 1_000_000
MAX_HIGH_BYTES = 4096  # maximum run of consecutive bytes above 127 (non-Latin text contains some)


def write_midi(
  path: str | pathlib.Path, roll: np.ndarray, steps_per_quarter: float = 1.0, tempo: float = 90.0
):
  """Write a piano roll as a MIDI file. Consecutive steps with the same key are one held note.

  Args:
    path: the file to write.
    roll: the piano roll [T, 88] of 0 and 1.
    steps_per_quarter: steps of the roll per quarter note.
    tempo: quarter notes per minute.
  """
  track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
  silence = np.zeros((1, NUM_KEYS))
  last_tick = 0
  changes = np.diff(roll, axis=0, prepend=silence, append=silence)
  for t, key in np.argwhere(changes):
    message_type = "note_on" if changes[t, key] > 0 else "note_off"
    tick = round(t * TICKS_PER_BEAT / steps_per_quarter)
    pitch = int(key) + LOWEST_PITCH
    # A MIDI message stores the ticks since the previous message.
    track.append(mido.Message(message_type, note=pitch, velocity=VELOCITY, time=tick - last_tick))
    last_tick = tick
  mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT, tracks=[track]).save(path)


def read_midi(path: str | pathlib.Path, steps_per_quarter: float = 1.0) -> np.ndarray:
  """Return the piano roll [T, 88] of a MIDI file.

  An element is 1 if the key sounds in the middle of the step, else 0. Drums (channel 10) are
  ignored.

  Args:
    path: the MIDI file.
    steps_per_quarter: steps of the roll per quarter note.

  Raises:
    InvalidInputError: the file is not MIDI, is damaged, is longer than MAX_STEPS, or has no note
      between A0 and C8.
  """
  data = read_bytes(pathlib.Path(path).expanduser())
  # mido parses consecutive bytes above 127 as one number, in quadratic time.
  longest_run = max(map(len, re.findall(rb"[\x80-\xff]+", data)), default=0)
  if longest_run > MAX_HIGH_BYTES:
    raise InvalidInputError(
      f"{path} is not a MIDI file: {longest_run} consecutive bytes are above 127"
    )
  with reraise_decode_errors(
    path, "as a MIDI file", "Was it cut off?", LookupError, mido.KeySignatureError
  ):
    file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    if file.ticks_per_beat < 1:
      raise ValueError("its unit of time is SMPTE frames instead of ticks per quarter note")
    notes = _read_notes(file, steps_per_quarter / file.ticks_per_beat)
  if not notes:
    raise InvalidInputError(f"{path} must have a note between A0 and C8; it has none")
  duration = max(end for *_, end in notes)
  if duration > MAX_STEPS:
    raise InvalidInputError(f"{path} must last at most {MAX_STEPS} steps; it lasts {duration:.3g}")
  roll = np.zeros((max(1, _to_step(duration)), NUM_KEYS), np.float32)
  for key, start, end in notes:
    roll[_to_step(start) : _to_step(end), key] = 1
  return roll


def _to_step(time: float) -> int:
  """Return the index of the first step whose midpoint is at or after `time`, given in steps."""
  return math.ceil(time - 0.5)


def _read_notes(file: mido.MidiFile, steps_per_tick: float) -> list[tuple[int, float, float]]:
  """Return a tuple (key, start, end) for each piano note, with start and end in steps.

  A note without a note_off message ends at the end of the file.
  """
  ticks = 0
  time = 0.0
  start_times = {}  # {(channel, pitch): start} of the notes that currently sound
  notes = []
  for message in mido.merge_tracks(file.tracks):
    ticks += message.time
    time = ticks * steps_per_tick
    if message.type not in ("note_on", "note_off") or message.channel == 9:
      continue
    voice = message.channel, message.note
    if voice in start_times:
      notes.append((message.note - LOWEST_PITCH, start_times.pop(voice), time))
    if message.type == "note_on" and message.velocity:  # velocity 0 means note_off
      start_times[voice] = time
  notes += [(pitch - LOWEST_PITCH, start, time) for (_, pitch), start in start_times.items()]
  return [note for note in notes if 0 <= note[0] < NUM_KEYS]

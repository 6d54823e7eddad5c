"""A small generated set of music in which a key must be remembered.

A piece is a walk by TRANSITIONS through the chords of one of twelve keys, which the first one
tells. Between two phrases is a silence, which may be long, and the next begins in the same key:
that can only be foretold by who remembers it across the silence. `floor` counts how well.
"""

from collections.abc import Sequence

import numpy as np

from experiments.polyphonic_music.piano_roll import PianoRolls, pitches_to_roll

SPLIT_SIZES, NUM_STEPS = (600, 100, 100), 40
STATES = ("I", "IV", "V", "vi", "silence")
TRANSITIONS = np.array(  # from a row's state to a column's
  [
    [0.0, 0.3, 0.2, 0.1, 0.4],
    [0.3, 0.0, 0.6, 0.1, 0.0],
    [0.7, 0.0, 0.0, 0.3, 0.0],
    [0.0, 0.6, 0.4, 0.0, 0.0],
    [0.4, 0.0, 0.0, 0.0, 0.6],
  ]
)
CHORD_OFFSETS = (
  (-24, 0, 4, 7),
  (-19, 0, 5, 9),
  (-17, -1, 2, 7),
  (-15, 0, 4, 9),
  (),
)  # above the tonic


def generate_splits() -> tuple[PianoRolls, PianoRolls, PianoRolls]:
  """Pieces to learn from, to choose with and to test."""
  made, _ = generate_pieces(sum(SPLIT_SIZES))
  train, valid, _ = np.cumsum(SPLIT_SIZES)
  return made[:train], made[train:valid], made[valid:]


def generate_pieces(num_pieces: int, seed: int = 0) -> tuple[PianoRolls, list[np.ndarray]]:
  """So many pieces: their rolls, and the state of each step, [T]."""
  draw, made, walks = np.random.default_rng(seed), [], []
  for _ in range(num_pieces):
    states = [0]
    while len(states) < NUM_STEPS:
      states.append(draw.choice(len(STATES), p=TRANSITIONS[states[-1]]))
    tonic = draw.integers(57, 69)
    made.append(
      pitches_to_roll([[tonic + voice for voice in CHORD_OFFSETS[state]] for state in states])
    )
    walks.append(np.array(states))
  return made, walks


def loss_lower_bound(state_sequences: Sequence[np.ndarray]) -> float:
  """Nats per step, the first not counted, of who knows the key and TRANSITIONS. Nobody has less."""
  odds = np.concatenate([TRANSITIONS[states[:-1], states[1:]] for states in state_sequences])
  return -np.log(odds).mean()

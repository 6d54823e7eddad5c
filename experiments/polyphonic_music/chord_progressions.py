"""Generated chord progressions in which the key must be remembered across silences.

A piece is a Markov chain over the chords of one of twelve keys and silence, with the transition
probabilities TRANSITIONS. The first chord determines the key. Phrases are separated by silences of
random length. The key is the same after a silence, so a model must remember the key to predict the
next chord. `loss_lower_bound` returns the loss of a model that remembers the key.
"""

from collections.abc import Sequence

import numpy as np

from experiments.polyphonic_music.piano_roll import PianoRolls, pitches_to_roll

SPLIT_SIZES = (600, 100, 100)  # numbers of training, validation and test pieces
NUM_STEPS = 40  # time steps of a piece
STATES = ("I", "IV", "V", "vi", "silence")
TRANSITIONS = np.array(  # [i, j]: probability of state j after state i
  [
    [0.0, 0.3, 0.2, 0.1, 0.4],
    [0.3, 0.0, 0.6, 0.1, 0.0],
    [0.7, 0.0, 0.0, 0.3, 0.0],
    [0.0, 0.6, 0.4, 0.0, 0.0],
    [0.4, 0.0, 0.0, 0.0, 0.6],
  ]
)
CHORD_OFFSETS = (  # notes of each state, in semitones above the tonic
  (-24, 0, 4, 7),
  (-19, 0, 5, 9),
  (-17, -1, 2, 7),
  (-15, 0, 4, 9),
  (),
)


def generate_splits() -> tuple[PianoRolls, PianoRolls, PianoRolls]:
  """Return the piano rolls of the training, validation and test set."""
  rolls, _ = generate_pieces(sum(SPLIT_SIZES))
  train, valid, _ = np.cumsum(SPLIT_SIZES)
  return rolls[:train], rolls[train:valid], rolls[valid:]


def generate_pieces(num_pieces: int, seed: int = 0) -> tuple[PianoRolls, list[np.ndarray]]:
  """Return the piano rolls [T, 88] and the state indices [T] of randomly generated pieces."""
  rng = np.random.default_rng(seed)
  rolls = []
  state_sequences = []
  for _ in range(num_pieces):
    states = [0]
    while len(states) < NUM_STEPS:
      states.append(rng.choice(len(STATES), p=TRANSITIONS[states[-1]]))
    tonic = rng.integers(57, 69)
    rolls.append(
      pitches_to_roll([[tonic + offset for offset in CHORD_OFFSETS[state]] for state in states])
    )
    state_sequences.append(np.array(states))
  return rolls, state_sequences


def loss_lower_bound(state_sequences: Sequence[np.ndarray]) -> float:
  """Return the mean negative log-likelihood of state sequences under TRANSITIONS, in nats per step.

  The first step of each piece is excluded. No model has a lower expected loss on the other steps.
  """
  probs = np.concatenate([TRANSITIONS[states[:-1], states[1:]] for states in state_sequences])
  return -np.log(probs).mean()

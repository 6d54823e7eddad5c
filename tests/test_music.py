"""Polyphonic music: rolls and files, chords as distributions, and what memory is good for."""

import gzip
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest
import scipy.io

from experiments import music as experiment
from experiments.music import Config
from experiments.polyphonic_music import chord_progressions, midi, piano_roll
from experiments.polyphonic_music import data as music_data
from experiments.polyphonic_music import plots as rolls
from experiments.polyphonic_music.model import Chords
from rnnjax import forward, gru
from rnnjax.decoding import generate
from rnnjax.types import BadInput

K, F = 4, 3
EVERY = np.array([*itertools.product([0, 1], repeat=K)], np.float32)  # all chords of K keys


def chords(features=F, keys=K):
  """A model and parameters of a size at which each chord's probability is its own."""
  model = Chords(forward(gru(5), backend="scan"), keys, features)
  params = model.init(jax.random.key(0), jnp.zeros((2, 1, keys)), jnp.array([2]))["params"]
  noise = lambda p, key: p + jax.random.normal(key, p.shape)
  keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
  return model, jax.tree.map(noise, params, jax.tree.unflatten(jax.tree.structure(params), keys))


def following(model, params, roll):
  """The probability of each of EVERY after a roll [T, K]."""
  T = len(roll) + 1
  rows = np.concatenate([np.repeat(roll[:, None], len(EVERY), 1), EVERY[None]])
  logits = jax.jit(model.apply)({"params": params}, rows, np.full(len(EVERY), T))
  p = 1 / (1 + np.exp(-np.asarray(logits)[-1]))
  return np.where(EVERY, p, 1 - p).prod(-1)


PAST = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]], np.float32)


@pytest.mark.parametrize("features", [0, F], ids=["independent", "nade"])
def test_all_chords_together_have_probability_one(features):
  """Whatever came before; and what came before matters."""
  model, params = chords(features)
  p, q = following(model, params, PAST), following(model, params, PAST[1:])
  assert p.sum() == pytest.approx(1, abs=1e-5)
  assert q.sum() == pytest.approx(1, abs=1e-5)
  assert np.abs(p - q).max() > 0.01


def test_keys_are_independent_only_without_features():
  """Two keys both sound as often as the product of how often each does."""
  for features, independent in ((0, True), (F, False)):
    p = following(*chords(features), PAST)
    both = p @ (EVERY[:, 0] * EVERY[:, 2]) - (p @ EVERY[:, 0]) * (p @ EVERY[:, 2])
    assert (abs(both) < 1e-6) == independent


def test_nade_is_its_equation():
  """Key after key, in loops."""
  model, params = chords()
  roll = np.concatenate([PAST, PAST[:1]])
  logits = jax.jit(model.apply)({"params": params}, roll[:, None], np.array([len(roll)]))[:, 0]
  before = np.concatenate([np.zeros((1, K), np.float32), roll[:-1]])
  _, hs = forward(gru(5)).apply(params["encoder"], jnp.asarray(before))
  last = params["outputs"]
  for x, output, found in zip(roll, np.asarray(hs @ last["kernel"] + last["bias"]), logits):
    a, b = output[:F], output[F:]
    for k in range(K):
      c = a + sum(x[j] * np.asarray(params["W"])[j] for j in range(k))
      assert found[k] == pytest.approx(b[k] + np.asarray(params["V"])[k] @ np.tanh(c), abs=1e-5)


@pytest.mark.parametrize("features", [0, F], ids=["independent", "nade"])
def test_what_is_drawn_is_as_frequent_as_it_is_likely(features):
  model, params = chords(features)
  N = 20_000
  before = np.concatenate([np.zeros((1, K), np.float32), PAST])  # x₀ = 0
  before = jnp.asarray(np.repeat(before[:, None], N, 1))
  _, drawn = generate(
    model.read, params, before, jax.random.key(2), steps=2, choose=model.choose(params)
  )
  p = following(model, params, PAST)
  often = lambda xs: np.bincount((np.asarray(xs) @ [8, 4, 2, 1]).astype(int), minlength=16) / N
  np.testing.assert_allclose(often(drawn[0]), p, atol=0.01)
  after = np.array([following(model, params, np.array([*PAST, chord])) for chord in EVERY])
  np.testing.assert_allclose(often(drawn[1]), p @ after, atol=0.01)  # the second knows the first


def test_a_roll_by_hand():
  made = piano_roll.roll([[21, 60], [], [108]])
  assert np.argwhere(made).tolist() == [[0, 0], [0, 39], [2, 87]]


def test_progressions_keep_their_key_across_silence():
  """Each piece is a walk by TRANSITIONS in one key, which silence does not say."""
  made, pieces = chord_progressions.pieces(200)
  for roll, states in zip(made, pieces):
    assert states[0] == 0 and (chord_progressions.TRANSITIONS[states[:-1], states[1:]] > 0).all()
    tonic = {tuple(np.flatnonzero(step)) for step in roll[states == 0]}
    assert len(tonic) == 1
    assert not roll[states == 4].any()
  assert len({np.flatnonzero(roll[0])[0] for roll in made}) == 12


def test_the_floor_is_the_entropy_of_the_walk():
  """In the long run, weighted by how often each state comes: the power of the table says that."""
  often = np.linalg.matrix_power(chord_progressions.TRANSITIONS, 100)[0]
  log = np.log(np.maximum(chord_progressions.TRANSITIONS, 1e-300))
  entropy = -(often[:, None] * chord_progressions.TRANSITIONS * log).sum()
  assert chord_progressions.floor(chord_progressions.pieces(500)[1]) == pytest.approx(
    entropy, rel=0.03
  )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  """A short run on the generated pieces, with a sample."""
  folder = tmp_path_factory.mktemp("played")
  config = Config(
    hidden=8,
    chord=4,
    batch=64,
    epochs=1,
    rate=0.03,
    average=0.0,
    dataset="embedded",
    out=str(folder / "run"),
    sample=str(folder / "a.mid"),
    length=24,
  )
  return config, experiment.run(config)


def test_a_run_counts_all_steps_but_the_first(played):
  """Of all pieces alike; and it has learnt that most keys are silent, which cost 61 nats."""
  config, scores = played
  model, params = experiment.load(config.out)
  rolls = np.stack(chord_progressions.splits()[2], 1)
  logits = jax.jit(model.apply)({"params": params}, rolls, np.full(rolls.shape[1], len(rolls)))
  nats = np.logaddexp(0, np.where(rolls, -1, 1) * np.asarray(logits)).sum(-1)
  assert scores["test/loss"] == pytest.approx(nats[1:].mean(), rel=1e-4)
  assert scores["test/loss"] < 30


def test_the_sample_plays(played, tmp_path):
  """The loaded model draws the same, and goes on from what it is given."""
  config, _ = played
  roll, again = midi.read(config.sample), str(tmp_path / "again.mid")
  assert 0 < len(roll) <= 24 and roll.any()
  how = dict(load=config.out, length=24, sample=again)
  assert experiment.run(Config(**how))["steps"] == 24
  np.testing.assert_array_equal(midi.read(again), roll)
  assert experiment.run(Config(**how, prompt=config.sample))["steps"] == len(roll) + 24
  np.testing.assert_array_equal(midi.read(again)[: len(roll)], roll)


def test_the_picture_is_drawn(played):
  config, _ = played
  path = pathlib.Path(config.out) / "figures" / "rolls.png"
  assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [1, 4])
def test_midi_and_back(tmp_path, steps):
  """The same roll, and as long in seconds as its quarter notes take."""
  roll = (np.random.default_rng(0).random((20, piano_roll.KEYS)) < 0.1).astype(np.float32)
  midi.write(tmp_path / "some.mid", roll, steps, tempo=120)
  np.testing.assert_array_equal(midi.read(tmp_path / "some.mid", steps), roll)
  assert mido.MidiFile(tmp_path / "some.mid").length == pytest.approx(20 / steps * 0.5)


def test_a_held_key_is_struck_once(tmp_path):
  midi.write(tmp_path / "some.mid", piano_roll.roll([[60], [60, 64], [64]]))
  (track,) = mido.MidiFile(tmp_path / "some.mid").tracks
  struck = [(m.note, m.time) for m in track if m.type == "note_on"]
  assert struck == [(60, 0), (64, 480)]


def test_drums_are_not_heard(tmp_path):
  drum, note = (mido.Message("note_on", note=n, channel=c) for n, c in ((40, 9), (60, 0)))
  track = mido.MidiTrack([drum, note, note.copy(velocity=0, time=480), drum.copy(velocity=0)])
  mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(tmp_path / "some.mid")
  np.testing.assert_array_equal(midi.read(tmp_path / "some.mid"), piano_roll.roll([[60]]))


def test_off_the_beat_each_note_sounds_in_one_step(tmp_path):
  """From middle to middle: none is lost and none is heard twice. What nobody ends, the end does."""
  track = mido.MidiTrack()
  for n, (note, wait) in enumerate([(60, 240), (62, 0), (64, 0), (65, 0)]):
    track.append(mido.Message("note_on", note=note, time=wait))
    end = mido.Message("note_off", note=note, time=480)
    track.append(end if n < 3 else mido.MetaMessage("end_of_track", time=480))
  mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(tmp_path / "some.mid")
  np.testing.assert_array_equal(
    midi.read(tmp_path / "some.mid"), piano_roll.roll([[60], [62], [64], [65]])
  )


@pytest.mark.parametrize("data", [b"", b"MThd", b"RIFF" * 20], ids=["empty", "cut", "other"])
def test_what_is_no_midi_is_refused(tmp_path, data):
  (tmp_path / "some.mid").write_bytes(data)
  with pytest.raises(BadInput, match=r"some\.mid cannot be read as a MIDI file"):
    midi.read(tmp_path / "some.mid")


def test_midi_without_notes_is_refused(tmp_path):
  mido.MidiFile(tracks=[mido.MidiTrack()]).save(tmp_path / "some.mid")
  with pytest.raises(BadInput, match=r"some\.mid must have a note"):
    midi.read(tmp_path / "some.mid")


def cells(pieces):
  made = np.empty((1, len(pieces)), object)
  made[0] = [*pieces]
  return made


def save(path, **parts):
  pieces = [piano_roll.roll([[60, 64], [62]]), piano_roll.roll([[60], [], [70]])]
  given = dict.fromkeys(music_data.PARTS, pieces) | parts
  scipy.io.savemat(path, {f"{part}data": cells(some) for part, some in given.items()})
  return pieces


def test_a_mat_file(tmp_path):
  """By its path, or by its folder and its name."""
  pieces = save(tmp_path / "Some.mat")
  for made in (
    music_data.load("auto", str(tmp_path / "Some.mat")),
    music_data.load("Some", str(tmp_path)),
  ):
    assert made.name == "Some"
    for part in made[1:]:
      for roll, true in zip(part, pieces, strict=True):
        np.testing.assert_array_equal(roll, true)


def test_lists_of_pitches(tmp_path):
  text = json.dumps({part: [[[60, 64.0], []], [[21], [108]]] for part in music_data.PARTS})
  (tmp_path / "some.json.gz").write_bytes(gzip.compress(text.encode()))
  made = music_data.load("auto", str(tmp_path / "some.json.gz"))
  np.testing.assert_array_equal(made.valid[0], piano_roll.roll([[60, 64], []]))
  assert made.name == "some" and np.argwhere(made.test[1]).tolist() == [[0, 0], [1, 87]]


@pytest.mark.parametrize(
  "roll, words",
  [
    (np.ones((5, 87)), r"Some\.mat, valid, piece 1 must be \[T, 88\].* got float64 \[5, 87\]"),
    (np.ones((88, 5)), r"piece 1 must be \[T, 88\].* \[88, 5\]\. Are its axes swapped"),
    (np.ones((1, 88)), r"2 or more steps.* \[1, 88\]"),
    (np.eye(3, 88) * 64, r"piece 1, step 1, key 1: must be 0 or 1, silent or not; got 64\.0"),
    (np.full((3, 88), np.nan), r"step 1, key 1: must be 0 or 1, silent or not; got nan"),
    (np.array([["a"] * 88] * 2), r"piece 1 must be \[T, 88\]"),
  ],
  ids=["keys", "swapped", "short", "loud", "nan", "text"],
)
def test_what_is_no_roll_is_refused(tmp_path, roll, words):
  save(tmp_path / "Some.mat", valid=[roll, roll])
  with pytest.raises(BadInput, match=words):
    music_data.load("auto", str(tmp_path / "Some.mat"))


@pytest.mark.parametrize("length", [0, 60, 200])
def test_a_damaged_mat_file_is_refused(tmp_path, length):
  save(tmp_path / "Some.mat")
  (tmp_path / "Some.mat").write_bytes((tmp_path / "Some.mat").read_bytes()[:length])
  with pytest.raises(BadInput, match=r"Some\.mat (cannot be read as a MATLAB|must hold pieces)"):
    music_data.load("auto", str(tmp_path / "Some.mat"))


@pytest.mark.parametrize(
  "text, words",
  [
    ("{", r"some\.json is not JSON: Expecting property name"),
    ("[]", r"some\.json cannot be read as \{.train"),
    ('{"train": 3}', r"some\.json cannot be read as \{.train"),
    ('{"train": [[[60], ["C"]]]}', r"some\.json cannot be read as \{.train"),
    ('{"train": [[[60], [61]]]}', r"some\.json must hold pieces in each of .*; valid has none"),
    ('{"train": [[[60], [20]]]}', r"train, piece 1, step 2: a pitch must be a whole .* got 20"),
    ('{"train": [[[60], [60.5]]]}', r"a pitch must be a whole number from 21 to 108.* got 60\.5"),
  ],
  ids=["cut", "list", "number", "text", "parts", "low", "between"],
)
def test_malformed_lists_of_pitches_are_refused(tmp_path, text, words):
  (tmp_path / "some.json").write_text(text)
  with pytest.raises(BadInput, match=words):
    music_data.load("auto", str(tmp_path / "some.json"))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(data_dir="/nowhere"), r"--data_dir must be .* got '/nowhere'"),
    (dict(dataset="JSB_Chorales"), r"a folder with JSB_Chorales\.mat"),
    (dict(sample="/nowhere/a.mid"), r"--sample must be .* got '/nowhere/a\.mid'"),
    (dict(load="runs/jsb"), r"--sample must be .* got ''"),
    (dict(prompt=__file__), r"test_music\.py cannot be read as a MIDI file"),
    (dict(prompt="/nowhere.mid"), r"--prompt must be a file"),
  ],
  ids=["nowhere", "dataset", "sample", "load", "prompt", "no-prompt"],
)
def test_misfits_are_refused(options, words):
  with pytest.raises(BadInput, match=words):
    experiment.run(Config(**options))


def test_the_picture_refuses_what_is_no_roll(tmp_path):
  with pytest.raises(ValueError, match=r"'some': a roll must be \[T, 88\]; got \[3, 4\]"):
    rolls.rolls(tmp_path / "a.png", [("some", np.zeros((3, 4)))])


def test_transposed_pieces():
  """Each piece in its own key and in all others that fit: the same intervals, higher or lower."""
  chord = lambda *pitches: piano_roll.roll([pitches, pitches])
  rolls = piano_roll.transposed([chord(22, 60), chord(60, 64)], 2)
  sound = [(int(low), int(high)) for low, high in (np.flatnonzero(one[1]) + 21 for one in rolls)]
  first, second = [(21, 59), (22, 60), (23, 61), (24, 62)], [(n, n + 4) for n in range(58, 63)]
  assert sorted(sound) == sorted(first + second)
  assert len(piano_roll.transposed([chord(107)], 3)) == 3 + 1 + 1
  assert len(piano_roll.transposed([chord(60)], 100)) == piano_roll.KEYS

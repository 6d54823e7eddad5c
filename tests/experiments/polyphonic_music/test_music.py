"""Polyphonic music: piano rolls, MIDI files, RNN-NADE probabilities, and a training run."""

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
from experiments.polyphonic_music import chord_progressions, midi, piano_roll, plots
from experiments.polyphonic_music import data as music_data
from experiments.polyphonic_music.model import RnnNade
from rnnjax import forward, gru
from rnnjax.decoding.sampling import generate
from rnnjax.types import InvalidInputError

K, F = 4, 3
ALL_CHORDS = np.array([*itertools.product([0, 1], repeat=K)], np.float32)


def random_chord_model(features=F, keys=K):
  """Return a model and random parameters, large enough that all chords differ in probability."""
  model = RnnNade(forward(gru(5), backend="scan"), keys, features)
  params = model.init(jax.random.key(0), jnp.zeros((2, 1, keys)), jnp.array([2]))["params"]

  def add_noise(p, key):
    return p + jax.random.normal(key, p.shape)

  keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
  return model, jax.tree.map(
    add_noise, params, jax.tree.unflatten(jax.tree.structure(params), keys)
  )


def next_chord_probs(model, params, roll):
  """Return the probability of each of ALL_CHORDS after a roll [T, K]."""
  T = len(roll) + 1
  rows = np.concatenate([np.repeat(roll[:, None], len(ALL_CHORDS), 1), ALL_CHORDS[None]])
  logits = jax.jit(model.apply)({"params": params}, rows, np.full(len(ALL_CHORDS), T))
  p = 1 / (1 + np.exp(-np.asarray(logits)[-1]))
  return np.where(ALL_CHORDS, p, 1 - p).prod(-1)


PAST = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]], np.float32)


@pytest.mark.parametrize("features", [0, F], ids=["independent", "nade"])
def test_chord_probabilities_sum_to_one(features):
  """For any past; and the probabilities depend on the past."""
  model, params = random_chord_model(features)
  p, q = next_chord_probs(model, params, PAST), next_chord_probs(model, params, PAST[1:])
  assert p.sum() == pytest.approx(1, abs=1e-5)
  assert q.sum() == pytest.approx(1, abs=1e-5)
  assert np.abs(p - q).max() > 0.01


def test_notes_are_independent_only_without_nade():
  """The covariance of two keys is 0 only without NADE."""
  for features, independent in ((0, True), (F, False)):
    p = next_chord_probs(*random_chord_model(features), PAST)
    both = p @ (ALL_CHORDS[:, 0] * ALL_CHORDS[:, 2]) - (p @ ALL_CHORDS[:, 0]) * (
      p @ ALL_CHORDS[:, 2]
    )
    assert (abs(both) < 1e-6) == independent


def test_nade_equals_reference():
  """The reference loops over the keys."""
  model, params = random_chord_model()
  roll = np.concatenate([PAST, PAST[:1]])
  logits = jax.jit(model.apply)({"params": params}, roll[:, None], np.array([len(roll)]))[:, 0]
  previous_steps = np.concatenate([np.zeros((1, K), np.float32), roll[:-1]])
  _, hs = forward(gru(5)).apply(params["encoder"], jnp.asarray(previous_steps))
  dense = params["outputs"]
  for x, output, step_logits in zip(roll, np.asarray(hs @ dense["kernel"] + dense["bias"]), logits):
    a, b = output[:F], output[F:]
    for k in range(K):
      c = a + sum(x[j] * np.asarray(params["W"])[j] for j in range(k))
      assert step_logits[k] == pytest.approx(
        b[k] + np.asarray(params["V"])[k] @ np.tanh(c), abs=1e-5
      )


@pytest.mark.parametrize("features", [0, F], ids=["independent", "nade"])
def test_sample_frequencies_match_probabilities(features):
  model, params = random_chord_model(features)
  N = 20_000
  prompt = np.concatenate([np.zeros((1, K), np.float32), PAST])  # x₀ = 0
  prompt = jnp.asarray(np.repeat(prompt[:, None], N, 1))
  _, sampled = generate(
    model.predict_next,
    params,
    prompt,
    jax.random.key(2),
    num_tokens=2,
    sampler=model.chord_sampler(params),
  )
  p = next_chord_probs(model, params, PAST)

  def chord_frequencies(xs):
    return np.bincount((np.asarray(xs) @ [8, 4, 2, 1]).astype(int), minlength=16) / N

  np.testing.assert_allclose(chord_frequencies(sampled[0]), p, atol=0.01)
  # The second chord depends on the first.
  transitions = np.array(
    [next_chord_probs(model, params, np.array([*PAST, chord])) for chord in ALL_CHORDS]
  )
  np.testing.assert_allclose(chord_frequencies(sampled[1]), p @ transitions, atol=0.01)


def test_piano_roll_from_pitches():
  roll = piano_roll.pitches_to_roll([[21, 60], [], [108]])
  assert np.argwhere(roll).tolist() == [[0, 0], [0, 39], [2, 87]]


def test_synthetic_progressions_keep_their_key():
  """Each piece is a walk by TRANSITIONS in one of twelve keys, and state 4 is silent."""
  rolls, state_sequences = chord_progressions.generate_pieces(200)
  for roll, states in zip(rolls, state_sequences):
    assert states[0] == 0 and (chord_progressions.TRANSITIONS[states[:-1], states[1:]] > 0).all()
    tonic = {tuple(np.flatnonzero(step)) for step in roll[states == 0]}
    assert len(tonic) == 1
    assert not roll[states == 4].any()
  assert len({np.flatnonzero(roll[0])[0] for roll in rolls}) == 12


def test_loss_floor_is_entropy_of_markov_chain():
  """A row of a high power of TRANSITIONS is the stationary distribution."""
  stationary = np.linalg.matrix_power(chord_progressions.TRANSITIONS, 100)[0]
  log = np.log(np.maximum(chord_progressions.TRANSITIONS, 1e-300))
  entropy = -(stationary[:, None] * chord_progressions.TRANSITIONS * log).sum()
  assert chord_progressions.loss_lower_bound(
    chord_progressions.generate_pieces(500)[1]
  ) == pytest.approx(entropy, rel=0.03)


@pytest.fixture(scope="module")
def music_run(tmp_path_factory):
  """A short run on the generated pieces, with a sample."""
  folder = tmp_path_factory.mktemp("music")
  config = Config(
    hidden_size=8,
    nade_features=4,
    batch_size=64,
    epochs=1,
    learning_rate=0.03,
    ema_decay=0.0,
    dataset="embedded",
    workdir=str(folder / "run"),
    sample_file=str(folder / "a.mid"),
    sample_length=24,
  )
  return config, experiment.run(config)


def test_test_loss_excludes_first_step(music_run):
  """All other steps count equally. An untrained model has a loss of 61 nats."""
  config, scores = music_run
  model, params = experiment.load(config.workdir)
  rolls = np.stack(chord_progressions.generate_splits()[2], 1)
  logits = jax.jit(model.apply)({"params": params}, rolls, np.full(rolls.shape[1], len(rolls)))
  nats = np.logaddexp(0, np.where(rolls, -1, 1) * np.asarray(logits)).sum(-1)
  assert scores["test/loss"] == pytest.approx(nats[1:].mean(), rel=1e-4)
  assert scores["test/loss"] < 30


def test_loaded_model_reproduces_and_continues_sample(music_run, tmp_path):
  """The loaded model draws the same sample, and continues a prompt."""
  config, _ = music_run
  roll = midi.read_midi(config.sample_file)
  path = str(tmp_path / "again.mid")
  assert 0 < len(roll) <= 24 and roll.any()
  flags = dict(predict=True, workdir=config.workdir, sample_length=24, sample_file=path)
  assert experiment.run(Config(**flags))["steps"] == 24
  np.testing.assert_array_equal(midi.read_midi(path), roll)
  assert experiment.run(Config(**flags, prompt_file=config.sample_file))["steps"] == len(roll) + 24
  np.testing.assert_array_equal(midi.read_midi(path)[: len(roll)], roll)


def test_piano_roll_figure_is_written(music_run):
  config, _ = music_run
  path = pathlib.Path(config.workdir) / "figures" / "rolls.png"
  assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [1, 4])
def test_midi_round_trip(tmp_path, steps):
  """The roll is the same, and the duration in seconds is that of its quarter notes."""
  roll = (np.random.default_rng(0).random((20, piano_roll.NUM_KEYS)) < 0.1).astype(np.float32)
  midi.write_midi(tmp_path / "song.mid", roll, steps, tempo=120)
  np.testing.assert_array_equal(midi.read_midi(tmp_path / "song.mid", steps), roll)
  assert mido.MidiFile(tmp_path / "song.mid").length == pytest.approx(20 / steps * 0.5)


def test_held_note_is_one_note_on(tmp_path):
  midi.write_midi(tmp_path / "song.mid", piano_roll.pitches_to_roll([[60], [60, 64], [64]]))
  (track,) = mido.MidiFile(tmp_path / "song.mid").tracks
  note_ons = [(m.note, m.time) for m in track if m.type == "note_on"]
  assert note_ons == [(60, 0), (64, 480)]


def test_drum_channel_is_ignored(tmp_path):
  drum, note = (mido.Message("note_on", note=n, channel=c) for n, c in ((40, 9), (60, 0)))
  track = mido.MidiTrack([drum, note, note.copy(velocity=0, time=480), drum.copy(velocity=0)])
  mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(tmp_path / "song.mid")
  np.testing.assert_array_equal(
    midi.read_midi(tmp_path / "song.mid"), piano_roll.pitches_to_roll([[60]])
  )


def test_off_beat_notes_are_quantized_to_one_step(tmp_path):
  """No note is lost or doubled. The end of the file ends a note without note_off."""
  track = mido.MidiTrack()
  for n, (note, wait) in enumerate([(60, 240), (62, 0), (64, 0), (65, 0)]):
    track.append(mido.Message("note_on", note=note, time=wait))
    end = mido.Message("note_off", note=note, time=480)
    track.append(end if n < 3 else mido.MetaMessage("end_of_track", time=480))
  mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(tmp_path / "song.mid")
  np.testing.assert_array_equal(
    midi.read_midi(tmp_path / "song.mid"), piano_roll.pitches_to_roll([[60], [62], [64], [65]])
  )


@pytest.mark.parametrize("data", [b"", b"MThd", b"RIFF" * 20], ids=["empty", "cut", "other"])
def test_invalid_midi_raises(tmp_path, data):
  (tmp_path / "song.mid").write_bytes(data)
  with pytest.raises(InvalidInputError, match=r"song\.mid cannot be read as a MIDI file"):
    midi.read_midi(tmp_path / "song.mid")


def test_midi_without_notes_raises(tmp_path):
  mido.MidiFile(tracks=[mido.MidiTrack()]).save(tmp_path / "song.mid")
  with pytest.raises(InvalidInputError, match=r"song\.mid must have a note"):
    midi.read_midi(tmp_path / "song.mid")


def cell_array(pieces):
  cells = np.empty((1, len(pieces)), object)
  cells[0] = [*pieces]
  return cells


def write_mat(path, **parts):
  pieces = [
    piano_roll.pitches_to_roll([[60, 64], [62]]),
    piano_roll.pitches_to_roll([[60], [], [70]]),
  ]
  splits = dict.fromkeys(music_data.SPLITS, pieces) | parts
  scipy.io.savemat(path, {f"{split}data": cell_array(rolls) for split, rolls in splits.items()})
  return pieces


def test_mat_file_by_path_or_name(tmp_path):
  pieces = write_mat(tmp_path / "Some.mat")
  for dataset in (
    music_data.load("auto", str(tmp_path / "Some.mat")),
    music_data.load("Some", str(tmp_path)),
  ):
    assert dataset.name == "Some"
    for split in dataset[1:]:
      for roll, true in zip(split, pieces, strict=True):
        np.testing.assert_array_equal(roll, true)


def test_json_pitch_lists(tmp_path):
  text = json.dumps({split: [[[60, 64.0], []], [[21], [108]]] for split in music_data.SPLITS})
  (tmp_path / "music.json.gz").write_bytes(gzip.compress(text.encode()))
  dataset = music_data.load("auto", str(tmp_path / "music.json.gz"))
  np.testing.assert_array_equal(dataset.valid[0], piano_roll.pitches_to_roll([[60, 64], []]))
  assert dataset.name == "music" and np.argwhere(dataset.test[1]).tolist() == [[0, 0], [1, 87]]


@pytest.mark.parametrize(
  "roll, words",
  [
    (
      np.ones((5, 87)),
      r"Some\.mat, valid, piece 1 must be .* \[T, 88\].* got float64 \[5, 87\]",
    ),
    (np.ones((88, 5)), r"piece 1 must be a numeric array.* \[88, 5\]\. Are its axes swapped"),
    (np.ones((1, 88)), r"T of 2 or more; got .* \[1, 88\]"),
    (np.eye(3, 88) * 64, r"piece 1, step 1, key 1: must be 0 \(silent\) or 1 .* got 64\.0"),
    (np.full((3, 88), np.nan), r"step 1, key 1: must be 0 \(silent\) or 1 .* got nan"),
    (np.array([["a"] * 88] * 2), r"piece 1 must be a numeric array"),
  ],
  ids=["keys", "swapped", "short", "velocity", "nan", "text"],
)
def test_invalid_piano_roll_raises(tmp_path, roll, words):
  write_mat(tmp_path / "Some.mat", valid=[roll, roll])
  with pytest.raises(InvalidInputError, match=words):
    music_data.load("auto", str(tmp_path / "Some.mat"))


@pytest.mark.parametrize("length", [0, 60, 200])
def test_truncated_mat_file_raises(tmp_path, length):
  write_mat(tmp_path / "Some.mat")
  (tmp_path / "Some.mat").write_bytes((tmp_path / "Some.mat").read_bytes()[:length])
  with pytest.raises(
    InvalidInputError, match=r"Some\.mat (cannot be read as a MATLAB|must contain pieces)"
  ):
    music_data.load("auto", str(tmp_path / "Some.mat"))


@pytest.mark.parametrize(
  "text, words",
  [
    ("{", r"music\.json is not JSON: Expecting property name"),
    ("[]", r"music\.json cannot be read as \{.train"),
    ('{"train": 3}', r"music\.json cannot be read as \{.train"),
    ('{"train": [[[60], ["C"]]]}', r"music\.json cannot be read as \{.train"),
    (
      '{"train": [[[60], [61]]]}',
      r"music\.json must contain pieces for each of .*; valid has none",
    ),
    ('{"train": [[[60], [20]]]}', r"train, piece 1, step 2: a pitch must be an integer .* got 20"),
    ('{"train": [[[60], [60.5]]]}', r"a pitch must be an integer from 21 to 108.* got 60\.5"),
  ],
  ids=["cut", "list", "number", "text", "parts", "low", "between"],
)
def test_invalid_pitch_lists_raise(tmp_path, text, words):
  (tmp_path / "music.json").write_text(text)
  with pytest.raises(InvalidInputError, match=words):
    music_data.load("auto", str(tmp_path / "music.json"))


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(data_dir="/nowhere"), r"--data_dir must be .* got '/nowhere'"),
    (dict(dataset="JSB_Chorales"), r"a folder with JSB_Chorales\.mat"),
    (dict(sample_file="/nowhere/a.mid"), r"--sample_file must be .* got '/nowhere/a\.mid'"),
    (dict(predict=True, workdir="runs/jsb"), r"--sample_file must be .* got ''"),
    (dict(prompt_file=__file__), r"test_music\.py cannot be read as a MIDI file"),
    (dict(prompt_file="/nowhere.mid"), r"--prompt_file must be a file"),
  ],
  ids=["nowhere", "dataset", "sample", "predict", "prompt", "no-prompt"],
)
def test_invalid_flags_raise(options, words):
  with pytest.raises(InvalidInputError, match=words):
    experiment.run(Config(**options))


def test_plot_of_invalid_roll_raises(tmp_path):
  with pytest.raises(ValueError, match=r"'some': a roll must be \[T, 88\]; got \[3, 4\]"):
    plots.plot_rolls(tmp_path / "a.png", [("some", np.zeros((3, 4)))])


def test_transposition_to_all_keys():
  """Each piece appears in every transposition that fits on the piano, with the same intervals."""

  def chord(*pitches):
    return piano_roll.pitches_to_roll([pitches, pitches])

  rolls = piano_roll.transpose_rolls([chord(22, 60), chord(60, 64)], 2)
  pitches = [(int(low), int(high)) for low, high in (np.flatnonzero(r[1]) + 21 for r in rolls)]
  first = [(21, 59), (22, 60), (23, 61), (24, 62)]
  second = [(n, n + 4) for n in range(58, 63)]
  assert sorted(pitches) == sorted(first + second)
  assert len(piano_roll.transpose_rolls([chord(107)], 3)) == 3 + 1 + 1
  assert len(piano_roll.transpose_rolls([chord(60)], 100)) == piano_roll.NUM_KEYS

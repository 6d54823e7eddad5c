"""Speech recognition: splits, sampled utterances, features, CTC loss, and a training run."""

import json
import zipfile

import jax
import numpy as np
import pytest
from scipy.io import wavfile

from experiments import speech
from experiments.speech import Config
from experiments.speech_recognition import data as fsdd_data
from experiments.speech_recognition import plots
from rnnjax.decoding import ctc
from rnnjax.types import InvalidInputError


def write_noise_wav(folder, name, seconds=0.1, rate=fsdd_data.SAMPLE_RATE):
  samples = np.random.default_rng(len(name)).integers(-9000, 9000, int(rate * seconds))
  wavfile.write(folder / name, rate, samples.astype(np.int16))


@pytest.fixture(scope="module")
def recordings_dir(tmp_path_factory):
  """Ten digits by two speakers: one recording each for training, validation and test."""
  folder = tmp_path_factory.mktemp("recordings")
  for digit in range(10):
    for speaker in ("ann", "bob"):
      for index in (0, 7, 31):
        write_noise_wav(folder, f"{digit}_{speaker}_{index}.wav")
  return folder


def words_and_speakers(recordings):
  return sorted((recording.word, recording.speaker) for recording in recordings)


def test_official_splits_by_index(recordings_dir, tmp_path):
  """By the index in the file name; the same from an archive with folders."""
  dataset = fsdd_data.load(data_dir=str(recordings_dir))
  all_pairs = sorted((digit, speaker) for digit in range(10) for speaker in ("ann", "bob"))
  assert (
    words_and_speakers(dataset.train)
    == words_and_speakers(dataset.valid)
    == words_and_speakers(dataset.test)
    == all_pairs
  )
  with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
    for file in recordings_dir.iterdir():
      archive.write(file, f"recordings/{file.name}")
  from_zip = fsdd_data.load(data_dir=str(tmp_path / "a.zip"))
  assert words_and_speakers(from_zip.test) == all_pairs
  _, true = wavfile.read(recordings_dir / "3_bob_0.wav")
  (samples,) = (r.samples for r in from_zip.test if (r.word, r.speaker) == (3, "bob"))
  np.testing.assert_allclose(samples * 32768, true)


def test_held_out_speaker_is_only_in_test_set(recordings_dir):
  dataset = fsdd_data.load(data_dir=str(recordings_dir), test_speaker="bob")
  assert {recording.speaker for recording in dataset.test} == {"bob"}
  assert len(dataset.test) == 30
  assert {recording.speaker for recording in dataset.train + dataset.valid} == {"ann"}
  with pytest.raises(InvalidInputError, match="--test_speaker must be one of ann, bob; got 'eve'"):
    fsdd_data.load(data_dir=str(recordings_dir), test_speaker="eve")


def test_invalid_recordings_raise(recordings_dir, tmp_path):
  """The message names the file and what was expected."""
  with pytest.raises(InvalidInputError, match=r"it contains no \.wav file"):
    fsdd_data.load(data_dir=str(tmp_path))
  write_noise_wav(tmp_path, "0_ann_0.wav", seconds=0.05)
  with pytest.raises(
    InvalidInputError, match=r"0_ann_0\.wav must be a word of 0\.1 to 30 s.*lasts 0\.05 s"
  ):
    fsdd_data.load(data_dir=str(tmp_path))
  write_noise_wav(tmp_path, "0_ann_0.wav")
  with pytest.raises(InvalidInputError, match=r"no recording of .*eight.* for the train split"):
    fsdd_data.load(data_dir=str(tmp_path))
  write_noise_wav(tmp_path, "zero.wav")
  with pytest.raises(InvalidInputError, match=r"zero\.wav must be named DIGIT_SPEAKER_INDEX\.wav"):
    fsdd_data.load(data_dir=str(tmp_path))
  with pytest.raises(InvalidInputError, match="--dataset must be one of"):
    Config(dataset="fsd")
  with pytest.raises(InvalidInputError, match="--data_dir must be a folder"):
    fsdd_data.load(dataset="files")
  with pytest.raises(
    InvalidInputError, match="--min_test_words must be at most --max_words; got 5 and 4"
  ):
    speech.run(Config(min_test_words=5, max_words=4))


def test_strings_concatenate_words_of_one_speaker():
  """Each word is a constant signal: without pauses, the samples are the words in order."""
  recordings = [
    fsdd_data.Recording(np.full(1000, level * (-1) ** s, np.float32), level, speaker)
    for level in range(1, 5)
    for s, speaker in enumerate(("ann", "bob"))
  ]
  utterances = list(fsdd_data.sample_utterances(recordings, 50, 2, 4, seed=0))
  assert {len(utterance.words) for utterance in utterances} == {2, 3, 4}
  for samples, words in utterances:
    levels = np.round(samples[np.abs(samples) > 0.5]).astype(int)  # without the pauses
    assert len({*np.sign(levels)}) == 1  # one speaker
    np.testing.assert_array_equal(np.abs(levels), np.repeat(words, 1000))
  same_seed = list(fsdd_data.sample_utterances(recordings, 50, 2, 4, seed=0))
  assert all((a.samples == b.samples).all() for a, b in zip(utterances, same_seed))


def test_tempo_changes_word_length():
  recordings = [fsdd_data.Recording(np.ones(1000, np.float32), 1, "ann")]
  lengths = [
    (utterance.samples > 0.5).sum()
    for utterance in fsdd_data.sample_utterances(
      recordings, 40, 1, 1, seed=0, speed_perturbation=0.2
    )
  ]
  assert 790 < min(lengths) < 850
  assert 1150 < max(lengths) < 1210


def test_features_ignore_loudness():
  samples = np.random.default_rng(0).normal(size=4000).astype(np.float32)
  words = np.array([3, 0])
  utterances = [fsdd_data.Utterance(volume * samples, words) for volume in (1, 0.05)]
  (loud, labels), (quiet, _) = fsdd_data.make_examples(utterances)
  np.testing.assert_allclose(loud, quiet, atol=1e-2)
  assert loud.shape == (17, 120)  # 50 frames of 10 ms, three per step
  np.testing.assert_array_equal(labels, [4, 1])


def test_ctc_loss_sums_over_alignments():
  """Equals an exhaustive beam search; padding and rows of weight 0 do not count."""
  ys = np.random.default_rng(0).normal(size=(5, 3, 3)).astype(np.float32)
  batch = {
    "lengths": np.array([5, 3, 0]),
    "targets": np.array([[1, 2, 0], [2, 0, 0], [2, 0, 0]]),
    "target_lengths": np.array([3, 1, 0]),
    "weights": np.array([1.0, 1.0, 0.0], np.float32),
  }
  loss = speech.compute_metrics(ys, batch)["loss"]
  assert loss.weight == 4
  log_p = np.asarray(jax.nn.log_softmax(ys))
  p = [dict(ctc.prefix_beam_search(log_p[:n, b], 1000)) for b, n in ((0, 5), (1, 3))]
  assert loss.total == pytest.approx(-p[0][1, 2, 2] - p[1][2,], rel=1e-4)


def test_word_errors_on_small_example():
  """Of six words, one is wrong and one is missing; one utterance of three is correct."""

  def log_probs(*labels):
    return np.log(np.eye(4)[list(labels)] * 0.9 + 0.02)

  examples = [
    (log_probs(1, 0, 2), np.array([1, 2])),
    (log_probs(3, 0, 0), np.array([2])),
    (log_probs(1, 0, 2), np.array([1, 2, 3])),
  ]
  scores = plots.word_error_scores(["a", "b", "c"], examples, ctc.greedy_decode)
  assert scores == {"word_error": pytest.approx(2 / 6), "accuracy": pytest.approx(1 / 3)}


def test_alignment_plot_of_mismatched_shape_raises(tmp_path):
  with pytest.raises(ValueError, match=r"p must be \[S, 3\]"):
    plots.plot_alignment(tmp_path, np.zeros((6, 4)), np.zeros((2, 2)), ["a", "b"], 0.1)


def test_run_scores_and_figure(tmp_path, monkeypatch):
  """A run on few generated recordings: the validation loss falls, and the best one is reported."""
  monkeypatch.setattr(fsdd_data, "RECORDINGS_PER_WORD", 14)
  monkeypatch.setattr(speech, "NUM_VALID_UTTERANCES", 8)
  monkeypatch.setattr(speech, "NUM_TEST_UTTERANCES", 8)
  workdir = tmp_path / "run"
  scores = speech.run(
    Config(
      num_train_utterances=36,
      min_test_words=1,
      max_words=1,
      epochs=4,
      hidden_size=8,
      learning_rate=0.02,
      beam_size=2,
      workdir=str(workdir),
    )
  )
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert lines[-1]["valid/loss"] < lines[0]["valid/loss"]
  assert scores["valid/loss"] == min(line["valid/loss"] for line in lines)
  for decoder in ("greedy", "beam"):
    for split in ("test", "alone"):
      assert 0 <= scores[f"{split}/{decoder}/accuracy"] <= 1
  assert (workdir / "figures" / "alignment.png").stat().st_size > 10_000

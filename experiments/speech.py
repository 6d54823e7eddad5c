"""Speech recognition: transcribe word sequences with CTC, trained without word boundaries.

python -m experiments.speech                                           # generated whistles
python -m experiments.speech --preset=digits --data_dir=recordings.zip  # 0.993; WER 0.6 %
python -m experiments.speech --preset=digits --data_dir=recordings.zip --test_speaker=theo
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import cli, runner, train_config
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.speech_recognition import data as fsdd_data
from experiments.speech_recognition import plots
from rnnjax.data.files import DATASETS
from rnnjax.data.standardize import Standardizer
from rnnjax.decoding import ctc
from rnnjax.masking import padding_mask
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import metrics, tasks

PRESETS = {
  "digits": dict(
    hidden_size=128,
    num_layers=2,
    num_train_utterances=12_000,
    dropout=0.3,
    speed_perturbation=0.15,
    epochs=8,
  )
}
NUM_VALID_UTTERANCES = 400
NUM_TEST_UTTERANCES = 500


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "source of the recordings", DATASETS)
  test_speaker: str = field_spec(
    "", "speaker who is only in the test set; empty for the official split"
  )
  min_test_words: int = field_spec(3, "smallest number of words of a test utterance", min_value=1)
  max_words: int = field_spec(
    7, "largest number of words of an utterance; training utterances have 1 or more", min_value=1
  )
  num_train_utterances: int = field_spec(
    2000, "training utterances sampled from the recordings", min_value=1
  )
  speed_perturbation: float = field_spec(
    0.0, "largest relative change of the speed of training recordings", min_value=0, less_than=0.5
  )
  hidden_size: int = 64
  batch_size: int = 32
  learning_rate: float = 5e-3
  epochs: int = 6
  bidirectional: bool = field_spec(True, "bidirectional encoder")
  dropout: float = field_spec(
    0.2, "dropout rate between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.99
  beam_size: int = field_spec(
    16, "prefixes kept by the beam search", min_value=1, affects_training=False
  )


def build(config: Config, num_words: int) -> SequenceLabeler:
  """Return a model that computes, at every step, the logits of the blank and of each word."""
  return SequenceLabeler(
    train_config.build_encoder(config), 1 + num_words, output_dropout=config.dropout
  )


def prepare(config: Config):
  """Load the recordings and batch them.

  Returns:
    A namespace with
      dataset: the recordings of each split.
      scale: the feature standardizer.
      train, valid: batches of sampled utterances and of all single-word recordings.
      test: batches of sampled test utterances.
      alone: batches of the single-word test recordings.
  """
  dataset = fsdd_data.load(config.dataset, config.data_dir, config.test_speaker)
  single_words = [
    fsdd_data.make_examples(fsdd_data.single_word_utterances(recordings))
    for recordings in (dataset.train, dataset.valid, dataset.test)
  ]

  def sample(recordings, num_utterances, min_words, seed, speed_perturbation=0.0):
    utterances = fsdd_data.sample_utterances(
      recordings, num_utterances, min_words, config.max_words, seed, speed_perturbation
    )
    return fsdd_data.make_examples(utterances)

  test = sample(dataset.test, NUM_TEST_UTTERANCES, config.min_test_words, seed=2)
  train = sample(
    dataset.train, config.num_train_utterances, 1, config.seed, config.speed_perturbation
  )
  train += single_words[0]
  valid = sample(dataset.valid, NUM_VALID_UTTERANCES, 1, seed=1) + single_words[1]
  scale = Standardizer.fit([xs for xs, _ in train])
  eval_batches = functools.partial(fsdd_data.make_batches, scale, 2 * config.batch_size)
  return SimpleNamespace(
    dataset=dataset,
    scale=scale,
    train=fsdd_data.make_batches(scale, config.batch_size, train, config.seed),
    valid=eval_batches(valid),
    test=eval_batches(test),
    alone=eval_batches(single_words[2]),
  )


def compute_metrics(ys, batch):
  """Return the connectionist temporal classification (CTC) loss in nats per word.

  The loss is −log p(words | audio), where p is the sum over all alignments (Graves et al. 2006).
  """
  mask = padding_mask(ys, batch["lengths"])
  labels = batch["targets"]
  label_mask = padding_mask(labels[..., None], batch["target_lengths"])
  # optax.ctc_loss takes batch-major arrays, and masks that are 1 at padding.
  nats = optax.ctc_loss(jnp.moveaxis(ys, 1, 0), 1.0 - mask.T, labels.T, 1.0 - label_mask.T)
  num_words = batch["target_lengths"] @ batch["weights"]
  return {"loss": metrics.Mean(nats @ batch["weights"], num_words)}


def log_probs_and_labels(model, params, batches):
  """Yield the log-probabilities [T, 1 + K] and the labels [U] of each row, without padding."""
  apply = jax.jit(lambda xs, n: jax.nn.log_softmax(model.apply({"params": params}, xs, n)))
  for batch in batches:
    log_p = np.asarray(apply(batch["tokens"], batch["lengths"]))
    for b in np.flatnonzero(batch["weights"]):
      yield log_p[: batch["lengths"][b], b], batch["targets"][: batch["target_lengths"][b], b]


def save_figures(workdir: str, model, params, data):
  """Plot the word probabilities of the longest test utterance to WORKDIR/figures/alignment.png."""
  words = data.dataset.words
  i = data.test.target_lengths.argmax()
  xs = data.test.sequences[i]
  text = " ".join(words[k - 1] for k in data.test.targets[i])
  ys = model.apply({"params": params}, xs[:, None], np.array([len(xs)]))
  mel = data.scale.inverse(xs).reshape(fsdd_data.FRAME_STACK * len(xs), -1)
  path = runner.figure_file(workdir, "alignment.png")
  frame_seconds = fsdd_data.HOP_LENGTH / fsdd_data.SAMPLE_RATE
  plots.plot_alignment(path, mel, jax.nn.softmax(ys)[:, 0], words, frame_seconds, text)


def run(config: Config = Config()):
  """Train a model; return the test scores of the checkpoint with the best validation loss."""
  data = prepare(config)
  words = data.dataset.words
  model = build(config, len(words))
  task = tasks.supervised_task(model, compute_metrics)
  extras = {"sounds": {"words": words} | data.scale.to_json()}
  params, scores = runner.train_and_test(
    config, task, data, data.dataset.name, "cosine", metric="loss", extras=extras
  )

  def beam_decode(log_p):
    return ctc.prefix_beam_search(log_p, config.beam_size)[0][0]

  decoders = {"greedy": ctc.greedy_decode, "beam": beam_decode}
  for split in ("test", "alone"):
    examples = list(log_probs_and_labels(model, params, getattr(data, split)))
    for decoder_name, decode in decoders.items():
      split_scores = plots.word_error_scores(words, examples, decode)
      scores |= {f"{split}/{decoder_name}/{name}": value for name, value in split_scores.items()}
  if config.workdir:
    save_figures(config.workdir, model, params, data)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

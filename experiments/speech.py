"""Speech to text: which words were said, and nobody has told when.

python -m experiments.speech                                           # generated whistles
python -m experiments.speech --preset=digits --data_dir=recordings.zip  # 0.993; WER 0.6 %
python -m experiments.speech --preset=digits --data_dir=recordings.zip --test_speaker=theo
"""

import dataclasses
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
NUM_VALID_UTTERANCES, NUM_TEST_UTTERANCES = 400, 500  # strings that choose, and that are tested


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which recordings", DATASETS)
  test_speaker: str = field_spec("", "a speaker who is tested, and not heard before")
  min_test_words: int = field_spec(3, "words of a string to test, at least", min_value=1)
  max_words: int = field_spec(
    7, "words of a string, at most; training has shorter ones, too", min_value=1
  )
  num_train_utterances: int = field_spec(
    2000, "strings made of the recordings to train on", min_value=1
  )
  speed_perturbation: float = field_spec(
    0.0, "share by which recordings to train on are sped up or down", min_value=0, less_than=0.5
  )
  hidden_size: int = 64
  batch_size: int = 32
  learning_rate: float = 5e-3
  epochs: int = 6
  bidirectional: bool = field_spec(True, "listen in both directions")
  dropout: float = field_spec(0.2, "rate between layers and before the last one", **PROBABILITY)
  ema_decay: float = 0.99
  beam_size: int = field_spec(
    16, "texts that the search holds at once", min_value=1, affects_training=False
  )


def build(config: Config, num_words: int) -> SequenceLabeler:
  """The model alone: logits of the blank and of each word, at every step."""
  return SequenceLabeler(
    train_config.build_encoder(config), 1 + num_words, output_dropout=config.dropout
  )


def prepare(config: Config):
  """Strings of the recordings, as batches, and the recordings to test, each alone."""
  spoken = fsdd_data.load(config.dataset, config.data_dir, config.test_speaker)
  alone = [
    fsdd_data.make_examples(fsdd_data.single_word_utterances(part))
    for part in (spoken.train, spoken.valid, spoken.test)
  ]
  made = lambda *how: fsdd_data.make_examples(fsdd_data.sample_utterances(*how))
  test = made(spoken.test, NUM_TEST_UTTERANCES, config.min_test_words, config.max_words, 2)
  train = (
    made(
      spoken.train,
      config.num_train_utterances,
      1,
      config.max_words,
      config.seed,
      config.speed_perturbation,
    )
    + alone[0]
  )
  valid = made(spoken.valid, NUM_VALID_UTTERANCES, 1, config.max_words, 1) + alone[1]
  scale = Standardizer.fit([xs for xs, _ in train])
  batches = lambda rows: fsdd_data.make_batches(scale, 2 * config.batch_size, rows)
  return SimpleNamespace(
    spoken=spoken,
    scale=scale,
    train=fsdd_data.make_batches(scale, config.batch_size, train, config.seed),
    valid=batches(valid),
    test=batches(test),
    alone=batches(alone[2]),
  )


def compute_metrics(ys, batch):
  """−log p(words | sound) per word, over all alignments (Graves et al. 2006)."""
  live, said = padding_mask(ys, batch["lengths"]), batch["targets"]
  spoken = padding_mask(said[..., None], batch["target_lengths"])
  nats = optax.ctc_loss(jnp.moveaxis(ys, 1, 0), 1.0 - live.T, said.T, 1.0 - spoken.T)
  words = batch["target_lengths"] @ batch["weights"]
  return {"loss": metrics.Mean(nats @ batch["weights"], words)}


def log_probs_and_labels(model, params, batches):
  """log p [T, 1 + K] and the labels [U] of each row."""
  apply = jax.jit(lambda xs, n: jax.nn.log_softmax(model.apply({"params": params}, xs, n)))
  for batch in batches:
    log_p = np.asarray(apply(batch["tokens"], batch["lengths"]))
    for b in np.flatnonzero(batch["weights"]):
      yield log_p[: batch["lengths"][b], b], batch["targets"][: batch["target_lengths"][b], b]


def save_figures(workdir: str, model, params, data):
  """A string of most words: what is heard, and what the net thinks when."""
  words, i = data.spoken.words, data.test.target_lengths.argmax()
  xs, said = data.test.sequences[i], " ".join(words[k - 1] for k in data.test.targets[i])
  ys = model.apply({"params": params}, xs[:, None], np.array([len(xs)]))
  mel = data.scale.inverse(xs).reshape(fsdd_data.FRAME_STACK * len(xs), -1)
  path = runner.figure_file(workdir, "alignment.png")
  plots.plot_alignment(
    path,
    mel,
    jax.nn.softmax(ys)[:, 0],
    words,
    fsdd_data.HOP_LENGTH / fsdd_data.SAMPLE_RATE,
    said,
  )


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  words = data.spoken.words
  model = build(config, len(words))
  task, name = tasks.supervised_task(model, compute_metrics), data.spoken.name
  how = dict(score="loss", beside={"sounds": {"words": words} | data.scale.to_json()})
  params, scores = runner.train_and_test(config, task, data, name, "cosine", **how)
  ways = {
    "greedy": ctc.greedy_decode,
    "beam": lambda log_p: ctc.prefix_beam_search(log_p, config.beam_size)[0][0],
  }
  for part in ("test", "alone"):
    rows = list(log_probs_and_labels(model, params, getattr(data, part)))
    for way, decode in ways.items():
      found = plots.word_error_scores(words, rows, decode)
      scores |= {f"{part}/{way}/{name}": value for name, value in found.items()}
  if config.workdir:
    save_figures(config.workdir, model, params, data)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

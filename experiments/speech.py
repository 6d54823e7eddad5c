"""Speech to text: which words were said, and nobody has told when.

python -m experiments.speech                                           # generated whistles
python -m experiments.speech --preset=digits --data_dir=recordings.zip  # 0.993; WER 0.6 %
python -m experiments.speech --preset=digits --data_dir=recordings.zip --hold_out=theo
"""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import cli, runner, train_config
from experiments.common.train_config import RATE, option
from experiments.speech_recognition import data as fsdd_data
from experiments.speech_recognition import plots
from rnnjax.data.files import DATASETS
from rnnjax.data.standardize import Scale
from rnnjax.decoding import ctc
from rnnjax.masking import alive
from rnnjax.models.sequence_labeler import Frames
from rnnjax.training import metrics, tasks

PRESETS = {"digits": dict(hidden=128, layers=2, strings=12_000, dropout=0.3, tempo=0.15, epochs=8)}
CHOOSE, TEST = 400, 500  # strings that choose, and that are tested


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  dataset: str = option("auto", "which recordings", DATASETS)
  hold_out: str = option("", "a speaker who is tested, and not heard before")
  fewest: int = option(3, "words of a string to test, at least", low=1)
  most: int = option(7, "words of a string, at most; training has shorter ones, too", low=1)
  strings: int = option(2000, "strings made of the recordings to train on", low=1)
  tempo: float = option(
    0.0, "share by which recordings to train on are sped up or down", low=0, below=0.5
  )
  hidden: int = 64
  batch: int = 32
  rate: float = 5e-3
  epochs: int = 6
  bidirectional: bool = option(True, "listen in both directions")
  dropout: float = option(0.2, "rate between layers and before the last one", **RATE)
  average: float = 0.99
  beam: int = option(16, "texts that the search holds at once", low=1, aside=True)


def build(config: Config, words: int) -> Frames:
  """The model alone: logits of the blank and of each word, at every step."""
  return Frames(train_config.encoder(config), 1 + words, output_dropout=config.dropout)


def prepare(config: Config):
  """Strings of the recordings, as batches, and the recordings to test, each alone."""
  spoken = fsdd_data.load(config.dataset, config.data_dir, config.hold_out)
  alone = [
    fsdd_data.examples(fsdd_data.alone(part)) for part in (spoken.train, spoken.valid, spoken.test)
  ]
  made = lambda *how: fsdd_data.examples(fsdd_data.strings(*how))
  test = made(spoken.test, TEST, config.fewest, config.most, 2)
  train = made(spoken.train, config.strings, 1, config.most, config.seed, config.tempo) + alone[0]
  valid = made(spoken.valid, CHOOSE, 1, config.most, 1) + alone[1]
  scale = Scale.of([xs for xs, _ in train])
  batches = lambda rows: fsdd_data.batches(scale, 2 * config.batch, rows)
  return SimpleNamespace(
    spoken=spoken,
    scale=scale,
    train=fsdd_data.batches(scale, config.batch, train, config.seed),
    valid=batches(valid),
    test=batches(test),
    alone=batches(alone[2]),
  )


def measure(ys, batch):
  """−log p(words | sound) per word, over all alignments (Graves et al. 2006)."""
  live, said = alive(ys, batch["lengths"]), batch["targets"]
  spoken = alive(said[..., None], batch["target_lengths"])
  nats = optax.ctc_loss(jnp.moveaxis(ys, 1, 0), 1.0 - live.T, said.T, 1.0 - spoken.T)
  words = batch["target_lengths"] @ batch["weights"]
  return {"loss": metrics.Mean(nats @ batch["weights"], words)}


def listen(model, params, batches):
  """log p [T, 1 + K] and the labels [U] of each row."""
  apply = jax.jit(lambda xs, n: jax.nn.log_softmax(model.apply({"params": params}, xs, n)))
  for batch in batches:
    log_p = np.asarray(apply(batch["tokens"], batch["lengths"]))
    for b in np.flatnonzero(batch["weights"]):
      yield log_p[: batch["lengths"][b], b], batch["targets"][: batch["target_lengths"][b], b]


def draw(out: str, model, params, data):
  """A string of most words: what is heard, and what the net thinks when."""
  words, i = data.spoken.words, data.test.target_lengths.argmax()
  xs, said = data.test.sequences[i], " ".join(words[k - 1] for k in data.test.targets[i])
  ys = model.apply({"params": params}, xs[:, None], np.array([len(xs)]))
  mel = data.scale.inverse(xs).reshape(fsdd_data.STACK * len(xs), -1)
  path = runner.figure(out, "alignment.png")
  plots.alignment(path, mel, jax.nn.softmax(ys)[:, 0], words, fsdd_data.STEP / fsdd_data.RATE, said)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  data = prepare(config)
  words = data.spoken.words
  model = build(config, len(words))
  task, name = tasks.supervised(model, measure), data.spoken.name
  how = dict(score="loss", beside={"sounds": {"words": words} | data.scale.json()})
  params, scores = runner.learn(config, task, data, name, "cosine", **how)
  ways = {"greedy": ctc.greedy, "beam": lambda log_p: ctc.beam(log_p, config.beam)[0][0]}
  for part in ("test", "alone"):
    rows = list(listen(model, params, getattr(data, part)))
    for way, decode in ways.items():
      found = plots.errors(words, rows, decode)
      scores |= {f"{part}/{way}/{name}": value for name, value in found.items()}
  if config.out:
    draw(config.out, model, params, data)
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

"""Polyphonic music: predict the notes of each time step from the earlier steps.

python -m experiments.music                                 # generated progressions
python -m experiments.music --preset=jsb --data_dir=JSB_Chorales.mat --workdir=runs/jsb
python -m experiments.music --predict --workdir=runs/jsb --sample_file=chorale.mid
"""

import dataclasses
import functools
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import optax

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.polyphonic_music import data as music_data
from experiments.polyphonic_music import midi, piano_roll, plots
from experiments.polyphonic_music.model import RnnNade
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.masking import padding_mask
from rnnjax.training import metrics, tasks
from rnnjax.types import InvalidInputError

PRESETS = {
  "jsb": dict(
    hidden_size=256,
    nade_features=0,
    max_transpose=5,
    epochs=40,
    learning_rate=4e-3,
    dropout=0.3,
    ema_decay=0.998,
  ),
  "jsb_nade": dict(nade_features=32, epochs=50, learning_rate=8e-3, dropout=0.3),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  cell: str = "gru"
  dataset: str = field_spec("auto", "data set; if --data_dir is a folder, the name of a .mat file")
  batch_size: int = 16
  learning_rate: float = 2e-2
  epochs: int = 20
  nade_features: int = field_spec(
    16, "hidden size of the NADE over the keys of a step; 0 for independent keys", min_value=0
  )
  max_train_length: int = field_spec(
    200, "steps of the random window that is cut from a longer training piece", min_value=2
  )
  max_transpose: int = field_spec(
    0, "largest transposition of the training pieces, up and down, in semitones", min_value=0
  )
  dropout: float = field_spec(
    0.0, "dropout rate between layers and before the output layer", **PROBABILITY
  )
  ema_decay: float = 0.99
  predict: bool = field_spec(
    False, "sample from the model of the finished run in --workdir", affects_training=False
  )
  sample_file: str = field_spec("", "MIDI file to write the sample to", affects_training=False)
  prompt_file: str = field_spec(
    "", "MIDI file that the sample continues", is_file=True, affects_training=False
  )
  sample_length: int = field_spec(64, "steps of the sample", min_value=1, affects_training=False)
  steps_per_quarter: int = field_spec(
    1, "steps per quarter note in MIDI files", min_value=1, affects_training=False
  )


def build(config: Config) -> RnnNade:
  """Return the model that the configuration specifies."""
  layer = forward(make_cell(config.cell, config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  return RnnNade(encoder, piano_roll.NUM_KEYS, config.nade_features, config.dropout)


def prepare(config: Config):
  """Return a namespace with the `name` of the data and the batches `train`, `valid`, `test`."""
  pieces = music_data.load(config.dataset, config.data_dir)
  train_rolls = piano_roll.transpose_rolls(pieces.train, config.max_transpose)
  train = BucketedBatches(
    train_rolls, None, config.batch_size, config.max_train_length, "window", seed=config.seed
  )
  valid, test = (
    BucketedBatches(rolls, None, config.batch_size) for rolls in (pieces.valid, pieces.test)
  )
  return SimpleNamespace(name=pieces.name, train=train, valid=valid, test=test)


def compute_metrics(logits, batch, first_step=1):
  """Return the mean negative log-likelihood in nats per step.

  Args:
    logits: [T, B, K], one logit for each piano key at each step.
    batch: {"tokens": rolls [T, B, K], "lengths": [B], "weights": [B]}.
    first_step: the index of the first step of each piece that the mean includes. The mean is over
      the included steps of all pieces, as in Bai et al. 2018.
  """
  nats = optax.sigmoid_binary_cross_entropy(logits, batch["tokens"]).sum(-1)
  weights = padding_mask(logits, batch["lengths"]) * batch["weights"][None]
  return {"loss": metrics.weighted_mean(nats[first_step:], weights[first_step:])}


def load(workdir: str):
  """Return (model, best parameters) of a finished run."""
  saved, config = runner.load_run(Config, workdir, "pieces")
  return build(config), saved.params


def load_prompt(config: Config) -> np.ndarray:
  """Check --sample_file and load --prompt_file.

  Returns:
    The piano roll [T, 88] of --prompt_file; [0, 88] if --prompt_file is empty.

  Raises:
    InvalidInputError: the folder of --sample_file does not exist, --predict is given without
      --sample_file, or --prompt_file is not a valid MIDI file.
  """
  folder = pathlib.Path(config.sample_file).expanduser().parent
  if not folder.is_dir() or (config.predict and not config.sample_file):
    raise InvalidInputError(
      f"--sample_file must be a file in an existing folder; got {config.sample_file!r}"
    )
  if not config.prompt_file:
    return piano_roll.pitches_to_roll([])
  return midi.read_midi(config.prompt_file, config.steps_per_quarter)


def sample_roll(config: Config, model: RnnNade, params, prompt: np.ndarray) -> np.ndarray:
  """Return a prompt [T, 88] followed by a sampled continuation.

  If --sample_file is set, the returned piano roll is also written to this file.
  """
  roll = model.sample_roll(params, prompt, config.sample_length, jax.random.key(config.seed))
  if config.sample_file:
    midi.write_midi(pathlib.Path(config.sample_file).expanduser(), roll, config.steps_per_quarter)
  return roll


def save_figures(
  workdir: str, model: RnnNade, params, true_roll: np.ndarray, sampled_roll: np.ndarray
):
  """Plot both rolls and the predicted probabilities for `true_roll` to figures/rolls.png."""
  lengths = np.array([len(true_roll)])
  logits = jax.jit(model.apply)({"params": params}, true_roll[:, None], lengths)[:, 0]
  panels = [
    ("from the test set", true_roll),
    ("predicted probability, given earlier steps and lower keys", jax.nn.sigmoid(logits)),
    ("sampled from the model", sampled_roll),
  ]
  plots.plot_rolls(runner.figure_file(workdir, "rolls.png"), panels)


def run(config: Config = Config()):
  """Train a model and return its scores; with --predict, only write a sample."""
  # The prompt is loaded first, so that an invalid flag raises an error before training.
  prompt = load_prompt(config)
  if config.predict:
    model, params = load(config.workdir)
    return {"steps": len(sample_roll(config, model, params, prompt))}
  data = prepare(config)
  model = build(config)
  # The training loss includes the first step: without a prompt, sampling starts at this step.
  task = tasks.supervised_task(
    model, compute_metrics, functools.partial(compute_metrics, first_step=0)
  )
  params, scores = runner.train_and_test(
    config, task, data, data.name, metric="loss", extras={"pieces": {"name": data.name}}
  )
  roll = sample_roll(config, model, params, prompt)
  if config.workdir:
    save_figures(config.workdir, model, params, data.test.sequences[0][:96], roll[:96])
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

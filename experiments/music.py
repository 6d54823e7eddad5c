"""Which keys sound next? Polyphonic music, a chord from the chords before it.

python -m experiments.music                                 # generated progressions
python -m experiments.music --preset=jsb --data_dir=JSB_Chorales.mat --workdir=runs/jsb
python -m experiments.music --predict=runs/jsb --sample_file=chorale.mid
"""

import dataclasses
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import optax

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
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
  dataset: str = field_spec("auto", "which pieces; in a folder the name of a .mat file")
  batch_size: int = 16
  learning_rate: float = 2e-2
  epochs: int = 20
  nade_features: int = field_spec(
    16, "features by which lower keys tell of higher ones; 0 for none", min_value=0
  )
  max_train_length: int = field_spec(
    200, "steps of a longer piece that are trained on at once", min_value=2
  )
  max_transpose: int = field_spec(
    0, "semitones by which pieces are trained on higher and lower", min_value=0
  )
  dropout: float = field_spec(0.0, "rate between layers and before the last one", **PROBABILITY)
  ema_decay: float = 0.99
  predict: str = field_spec(
    "", "folder of a finished run: only play with its model", affects_training=False
  )
  sample_file: str = field_spec("", "a MIDI file that is written", affects_training=False)
  prompt_file: str = field_spec(
    "", "a MIDI file that the sample continues", is_file=True, affects_training=False
  )
  sample_length: int = field_spec(64, "steps of the sample", min_value=1, affects_training=False)
  steps_per_quarter: int = field_spec(
    1, "steps in a quarter note, in MIDI files", min_value=1, affects_training=False
  )


def build(config: Config) -> RnnNade:
  """The model alone."""
  layer = forward(CELLS[config.cell](config.hidden_size), backend=config.backend)
  encoder = stack(*[layer] * config.num_layers, dropout=config.dropout)
  return RnnNade(encoder, piano_roll.NUM_KEYS, config.nade_features, config.dropout)


def prepare(config: Config):
  """The pieces as batches."""
  pieces = music_data.load(config.dataset, config.data_dir)
  known = piano_roll.transpose_rolls(pieces.train, config.max_transpose)
  train = BucketedBatches(
    known, None, config.batch_size, config.max_train_length, "window", seed=config.seed
  )
  valid, test = (
    BucketedBatches(part, None, config.batch_size) for part in (pieces.valid, pieces.test)
  )
  return SimpleNamespace(name=pieces.name, train=train, valid=valid, test=test)


def compute_metrics(logits, batch, first_step=1):
  """Nats per step, of all steps of all pieces but each one's first: as Bai et al. 2018 count."""
  nats = optax.sigmoid_binary_cross_entropy(logits, batch["tokens"]).sum(-1)
  counted = padding_mask(logits, batch["lengths"]) * batch["weights"][None]
  return {"loss": metrics.weighted_mean(nats[first_step:], counted[first_step:])}


def load(workdir: str):
  """The model of a run's --workdir, and its parameters."""
  saved, config = runner.load_run(Config, workdir, "pieces")
  return build(config), saved.params


def load_prompt(config: Config) -> np.ndarray:
  """The roll of --prompt_file, of no step where there is none; what could not be played is refused."""
  folder = pathlib.Path(config.sample_file).expanduser().parent
  if not folder.is_dir() or (config.predict and not config.sample_file):
    raise InvalidInputError(
      f"--sample_file must be a file in a folder that exists; got {config.sample_file!r}"
    )
  return (
    midi.read_midi(config.prompt_file, config.steps_per_quarter)
    if config.prompt_file
    else piano_roll.pitches_to_roll([])
  )


def sample_roll(config: Config, model: RnnNade, params, prompt: np.ndarray) -> np.ndarray:
  """Goes on from where a roll has begun; writes --sample_file and returns its roll."""
  roll = model.sample_roll(params, prompt, config.sample_length, jax.random.key(config.seed))
  if config.sample_file:
    midi.write_midi(pathlib.Path(config.sample_file).expanduser(), roll, config.steps_per_quarter)
  return roll


def save_figures(
  workdir: str, model: RnnNade, params, true_roll: np.ndarray, sampled_roll: np.ndarray
):
  """The picture OUT/figures/rolls.png."""
  logits = jax.jit(model.apply)({"params": params}, true_roll[:, None], np.array([len(true_roll)]))[
    :, 0
  ]
  likely = "how likely each key was, by what came before and the keys below", jax.nn.sigmoid(logits)
  path = runner.figure_file(workdir, "rolls.png")
  plots.plot_rolls(
    path, [("of the test part", true_roll), likely, ("drawn from the net", sampled_roll)]
  )


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  begun = load_prompt(config)
  if config.predict:
    return {"steps": len(sample_roll(config, *load(config.predict), begun))}
  data, model = prepare(config), build(config)
  task = tasks.supervised_task(
    model, compute_metrics, lambda *args: compute_metrics(*args, first_step=0)
  )
  how = dict(score="loss", beside={"pieces": {"name": data.name}})
  params, scores = runner.train_and_test(config, task, data, data.name, **how)
  roll = sample_roll(config, model, params, begun)
  if config.workdir:
    save_figures(config.workdir, model, params, data.test.sequences[0][:96], roll[:96])
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

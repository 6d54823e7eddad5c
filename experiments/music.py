"""Which keys sound next? Polyphonic music, a chord from the chords before it.

python -m experiments.music                                 # generated progressions
python -m experiments.music --preset=jsb --data_dir=JSB_Chorales.mat --out=runs/jsb
python -m experiments.music --load=runs/jsb --sample=chorale.mid
"""

import dataclasses
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import optax

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.polyphonic_music import data as music_data
from experiments.polyphonic_music import midi, piano_roll, plots
from experiments.polyphonic_music.model import Chords
from rnnjax import forward, stack
from rnnjax.data.bucketed_batches import Batches
from rnnjax.masking import alive
from rnnjax.training import metrics, tasks
from rnnjax.types import BadInput

PRESETS = {
  "jsb": dict(hidden=256, chord=0, transpose=5, epochs=40, rate=4e-3, dropout=0.3, average=0.998),
  "jsb_nade": dict(chord=32, epochs=50, rate=8e-3, dropout=0.3),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  cell: str = "gru"
  dataset: str = option("auto", "which pieces; in a folder the name of a .mat file")
  batch: int = 16
  rate: float = 2e-2
  epochs: int = 20
  chord: int = option(16, "features by which lower keys tell of higher ones; 0 for none", low=0)
  limit: int = option(200, "steps of a longer piece that are trained on at once", low=2)
  transpose: int = option(0, "semitones by which pieces are trained on higher and lower", low=0)
  dropout: float = option(0.0, "rate between layers and before the last one", **RATE)
  average: float = 0.99
  load: str = option("", "folder of a finished run: only play with its model", aside=True)
  sample: str = option("", "a MIDI file that is written", aside=True)
  prompt: str = option("", "a MIDI file that the sample continues", file=True, aside=True)
  length: int = option(64, "steps of the sample", low=1, aside=True)
  beat: int = option(1, "steps in a quarter note, in MIDI files", low=1, aside=True)


def build(config: Config) -> Chords:
  """The model alone."""
  layer = forward(CELLS[config.cell](config.hidden), backend=config.backend)
  encoder = stack(*[layer] * config.layers, dropout=config.dropout)
  return Chords(encoder, piano_roll.KEYS, config.chord, config.dropout)


def prepare(config: Config):
  """The pieces as batches."""
  pieces = music_data.load(config.dataset, config.data_dir)
  known = piano_roll.transposed(pieces.train, config.transpose)
  train = Batches(known, None, config.batch, config.limit, "window", seed=config.seed)
  valid, test = (Batches(part, None, config.batch) for part in (pieces.valid, pieces.test))
  return SimpleNamespace(name=pieces.name, train=train, valid=valid, test=test)


def measure(logits, batch, first=1):
  """Nats per step, of all steps of all pieces but each one's first: as Bai et al. 2018 count."""
  nats = optax.sigmoid_binary_cross_entropy(logits, batch["tokens"]).sum(-1)
  counted = alive(logits, batch["lengths"]) * batch["weights"][None]
  return {"loss": metrics.mean(nats[first:], counted[first:])}


def load(out: str):
  """The model of a run's --out, and its parameters."""
  saved, config = runner.restore(Config, out, "pieces")
  return build(config), saved.params


def prompt(config: Config) -> np.ndarray:
  """The roll of --prompt, of no step where there is none; what could not be played is refused."""
  folder = pathlib.Path(config.sample).expanduser().parent
  if not folder.is_dir() or (config.load and not config.sample):
    raise BadInput(f"--sample must be a file in a folder that exists; got {config.sample!r}")
  return midi.read(config.prompt, config.beat) if config.prompt else piano_roll.roll([])


def play(config: Config, model: Chords, params, begun: np.ndarray) -> np.ndarray:
  """Goes on from where a roll has begun; writes --sample and returns its roll."""
  roll = model.play(params, begun, config.length, jax.random.key(config.seed))
  if config.sample:
    midi.write(pathlib.Path(config.sample).expanduser(), roll, config.beat)
  return roll


def draw(out: str, model: Chords, params, true: np.ndarray, drawn: np.ndarray):
  """The picture OUT/figures/rolls.png."""
  logits = jax.jit(model.apply)({"params": params}, true[:, None], np.array([len(true)]))[:, 0]
  likely = "how likely each key was, by what came before and the keys below", jax.nn.sigmoid(logits)
  path = runner.figure(out, "rolls.png")
  plots.rolls(path, [("of the test part", true), likely, ("drawn from the net", drawn)])


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  begun = prompt(config)
  if config.load:
    return {"steps": len(play(config, *load(config.load), begun))}
  data, model = prepare(config), build(config)
  task = tasks.supervised(model, measure, lambda *args: measure(*args, first=0))
  how = dict(score="loss", beside={"pieces": {"name": data.name}})
  params, scores = runner.learn(config, task, data, data.name, **how)
  roll = play(config, model, params, begun)
  if config.out:
    draw(config.out, model, params, data.test.sequences[0][:96], roll[:96])
  return scores


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

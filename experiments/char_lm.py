"""A character at a time: hello, Shakespeare, the source of Linux.

python -m experiments.char_lm                                 # the text that comes along
python -m experiments.char_lm --preset=shakespeare --text=FILE --out=runs/mine
    # Tiny Shakespeare, 2 CPU cores, 30 min: 1.538 nats a character, 1.405 if it goes on learning
python -m experiments.char_lm --write=runs/mine --prompt="O " # what it has learnt to write
"""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from experiments.common import cli, runner
from experiments.common.train_config import RATE, option
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common, tracking_units
from experiments.language_modeling.text_generator import Writer
from rnnjax.analysis import figures

PRESETS = {
  "shakespeare": dict(
    cell="gru",
    hidden=512,
    layers=2,
    batch=32,
    window=100,
    epochs=22,
    rate=2e-3,
    dropout=0.5,
    input_dropout=0.1,
    weight_drop=0.4,
    average=0.998,
    restart=0.0,
    dynamic=2e-4,
  ),
}
SHOWN, HEARD = 300, 20_000  # characters of the figure, and those that decide what it shows


@dataclasses.dataclass(frozen=True)
class Config(lm_common.Language):
  dataset: str = option("auto", "which text", corpus_data.DATASETS[:3])
  dropout: float = option(0.4, "rate between layers and before the softmax, locked", **RATE)
  batch: int = option(8, "columns of the text that are read side by side", low=1)
  rate: float = 4e-3
  window: int = option(50, "steps through which the gradient goes back", low=1)
  epochs: int = 40
  bytes: bool = option(False, "each byte of the text is a character, whatever its encoding")
  strip: bool = option(False, "drop blanks at both ends of each line")


build = lm_common.build


def load(out: str) -> Writer:
  """The writer of a run's --out: load("runs/mine").write("O ", 500)."""
  return lm_common.load(out, Config, build)


def draw(writer: Writer, text: str, path: pathlib.Path):
  """The units that track something, as colours of a text; returns their correlations."""
  tokens = writer.vocabulary.encode(text)[:, None]
  read = lambda params: writer.model.apply({"params": params}, tokens, method="logits")[1]
  hs = np.asarray(jax.jit(read)(writer.params))[:, 0]
  found = tracking_units.trackers(hs, tracking_units.signals(text))
  # What is shown is of the half on which the correlation was measured.
  middle = len(text) // 2
  shown = slice(middle, middle + SHOWN)
  largest = max(1, abs(hs).max())  # not every cell keeps within 1
  rows = [
    (f"{name}: unit {unit}, r = {r:.2f}", text[shown], hs[shown, unit] / largest)
    for name, (unit, r) in sorted(found.items(), key=lambda item: -abs(item[1].correlation))
  ]
  if rows:
    figures.coloured_text(path, rows[:3])
  return {f"units/{name}": r for name, (_, r) in found.items()}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, and writes; returns the scores."""
  if config.write:
    return lm_common.write(config, load(config.write))
  text = corpus_data.characters(
    config.dataset, config.text or config.data_dir, config.strip, config.bytes
  )
  writer, scores = lm_common.train(config, text, build(config, len(text.vocabulary)))
  scores["test/bits"] = scores["test/loss"] / math.log(2)
  heard = "".join(text.vocabulary.decode(text.test[:HEARD]))
  if config.out and len(heard) > 3:
    scores |= draw(writer, heard, runner.figure(config.out, "units.png"))
  return scores | lm_common.write(config, writer)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

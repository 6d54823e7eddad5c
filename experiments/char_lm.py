"""A character at a time: hello, Shakespeare, the source of Linux.

python -m experiments.char_lm                                 # the text that comes along
python -m experiments.char_lm --preset=shakespeare --text_file=FILE --workdir=runs/mine
    # Tiny Shakespeare, 2 CPU cores, 30 min: 1.538 nats a character, 1.405 if it goes on learning
python -m experiments.char_lm --predict=runs/mine --prompt_file="O " # what it has learnt to write
"""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from experiments.common import cli, runner
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common, tracking_units
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax.analysis import figures

PRESETS = {
  "shakespeare": dict(
    cell="gru",
    hidden_size=512,
    num_layers=2,
    batch_size=32,
    bptt_length=100,
    epochs=22,
    learning_rate=2e-3,
    dropout=0.5,
    input_dropout=0.1,
    weight_drop=0.4,
    ema_decay=0.998,
    state_reset_prob=0.0,
    dynamic_eval_lr=2e-4,
  ),
}
NUM_PLOTTED_CHARS, NUM_ANALYZED_CHARS = (
  300,
  20_000,
)  # characters of the figure, and those that decide what it shows


@dataclasses.dataclass(frozen=True)
class Config(lm_common.LanguageModelConfig):
  dataset: str = field_spec("auto", "which text", corpus_data.DATASETS[:3])
  dropout: float = field_spec(
    0.4, "rate between layers and before the softmax, locked", **PROBABILITY
  )
  batch_size: int = field_spec(8, "columns of the text that are read side by side", min_value=1)
  learning_rate: float = 4e-3
  bptt_length: int = field_spec(50, "steps through which the gradient goes back", min_value=1)
  epochs: int = 40
  byte_level: bool = field_spec(
    False, "each byte of the text is a character, whatever its encoding"
  )
  strip_lines: bool = field_spec(False, "drop blanks at both ends of each line")


build = lm_common.build


def load(workdir: str) -> TextGenerator:
  """The writer of a run's --workdir: load("runs/mine").write("O ", 500)."""
  return lm_common.load(workdir, Config, build)


def save_figures(generator: TextGenerator, text: str, path: pathlib.Path):
  """The units that track something, as colours of a text; returns their correlations."""
  tokens = generator.vocabulary.encode(text)[:, None]
  read = lambda params: generator.model.apply({"params": params}, tokens, method="logits")[1]
  hs = np.asarray(jax.jit(read)(generator.params))[:, 0]
  found = tracking_units.find_tracking_units(hs, tracking_units.text_signals(text))
  # What is shown is of the half on which the correlation was measured.
  middle = len(text) // 2
  shown = slice(middle, middle + NUM_PLOTTED_CHARS)
  largest = max(1, abs(hs).max())  # not every cell keeps within 1
  rows = [
    (f"{name}: unit {unit}, r = {r:.2f}", text[shown], hs[shown, unit] / largest)
    for name, (unit, r) in sorted(found.items(), key=lambda item: -abs(item[1].correlation))
  ]
  if rows:
    figures.plot_colored_text(path, rows[:3])
  return {f"units/{name}": r for name, (_, r) in found.items()}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once, and writes; returns the scores."""
  if config.predict:
    return lm_common.print_samples(config, load(config.predict))
  text = corpus_data.load_characters(
    config.dataset, config.text_file or config.data_dir, config.strip_lines, config.byte_level
  )
  writer, scores = lm_common.train(config, text, build(config, len(text.vocabulary)))
  scores["test/bits"] = scores["test/loss"] / math.log(2)
  heard = "".join(text.vocabulary.decode(text.test[:NUM_ANALYZED_CHARS]))
  if config.workdir and len(heard) > 3:
    scores |= save_figures(writer, heard, runner.figure_file(config.workdir, "units.png"))
  return scores | lm_common.print_samples(config, writer)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

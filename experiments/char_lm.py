"""Character-level language model of Shakespeare, the Linux source code, or any other text.

python -m experiments.char_lm                                 # trains on the embedded text
python -m experiments.char_lm --preset=shakespeare --text_file=FILE --workdir=runs/mine
    # Tiny Shakespeare: 1.538 nats per character, 1.405 with dynamic evaluation; 29 min on 2 cores
python -m experiments.char_lm --predict="O " --workdir=runs/mine   # continues the prompt
"""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from experiments.common import cli, runner
from experiments.common.train_config import field_spec
from experiments.language_modeling import data as corpus_data
from experiments.language_modeling import lm_common, tracking_units
from experiments.language_modeling.text_generator import TextGenerator
from rnnjax.analysis import colored_text

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
NUM_PLOTTED_CHARS = 300  # characters in the figure
NUM_ANALYZED_CHARS = 20_000  # number of test set characters analyzed for tracking units


@dataclasses.dataclass(frozen=True)
class Config(lm_common.LanguageModelConfig):
  dataset: str = field_spec("auto", "text to train on", corpus_data.DATASETS[:3])
  dropout: float = 0.4
  batch_size: int = 8
  learning_rate: float = 4e-3
  bptt_length: int = 50
  epochs: int = 40
  byte_level: bool = field_spec(False, "use bytes as tokens; the text may have any encoding")
  strip_lines: bool = field_spec(False, "strip leading and trailing spaces and tabs of each line")


build = lm_common.build


def load(workdir: str) -> TextGenerator:
  """Load the text generator of a finished run.

  Example: load("runs/mine").generate("O ", 500)
  """
  return lm_common.load(workdir, Config, build)


def save_figures(generator: TextGenerator, text: str, path: pathlib.Path) -> dict[str, float]:
  """Plot the hidden units that track signals of a text; return their correlations.

  Returns:
    {"units/SIGNAL": correlation of the best unit with the signal}.
  """
  tokens = generator.vocabulary.encode(text)[:, None]

  @jax.jit
  def hidden_states(params):
    return generator.model.apply({"params": params}, tokens, method="logits")[1]

  hs = np.asarray(hidden_states(generator.params))[:, 0]
  units = tracking_units.find_tracking_units(hs, tracking_units.text_signals(text))
  # The units are selected on the first half of the text. The correlations and the figure use the
  # second half.
  middle = len(text) // 2
  plotted = slice(middle, middle + NUM_PLOTTED_CHARS)
  scale = max(1, abs(hs).max())  # hidden states of some cells exceed 1
  panels = [
    (f"{name}: unit {unit}, r = {r:.2f}", text[plotted], hs[plotted, unit] / scale)
    for name, (unit, r) in sorted(units.items(), key=lambda item: -abs(item[1].correlation))
  ]
  if panels:
    colored_text.plot_colored_text(path, panels[:3])
  return {f"units/{name}": unit.correlation for name, unit in units.items()}


def run(config: Config = Config()) -> dict:
  """Train a language model, test it, print a sample, and return the scores.

  The parameters with the best validation loss are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model continues the prompt.
  """
  if config.predict:
    return lm_common.print_samples(config, load(config.workdir), config.predict)
  corpus = corpus_data.load_characters(
    config.dataset, config.text_file or config.data_dir, config.strip_lines, config.byte_level
  )
  generator, scores = lm_common.train(config, corpus, build(config, len(corpus.vocabulary)))
  scores["test/bits"] = scores["test/loss"] / math.log(2)
  text = "".join(corpus.vocabulary.decode(corpus.test[:NUM_ANALYZED_CHARS]))
  if config.workdir and len(text) > 3:  # find_tracking_units needs at least four steps
    scores |= save_figures(generator, text, runner.figure_file(config.workdir, "units.png"))
  return scores | lm_common.print_samples(config, generator, config.prompt)


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

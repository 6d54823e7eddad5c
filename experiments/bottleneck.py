"""Compare translation models with and without attention on short and long sentences.

  python -m experiments.bottleneck --workdir=runs/bottleneck
  python -m experiments.bottleneck --preset=multi30k --data_dir=multi30k --workdir=runs/bottleneck

Without attention, the decoder receives every sentence as one vector of fixed size. This experiment
has the same flags as `translate`. Runs that are already finished in --workdir are not repeated.
"""

import dataclasses
import json
import math
import pathlib

from experiments import translate
from experiments.common import cli, runner
from experiments.common.train_config import field_spec
from experiments.seq2seq import seq2seq_common
from rnnjax.analysis import figures
from rnnjax.types import InvalidInputError

LENGTH_BOUNDS = (8, 10, 12, 15, 20, 1000)  # maximum number of source words of each length group
LONG_SENTENCE = 15  # sentences with more words are "long"
# Flags of the run without attention: all features that need attention are disabled.
NO_ATTENTION = dict(
  attention="none",
  input_feeding=False,
  copy_attention=False,
  coverage_weight=0.0,
  coverage_penalty=0.0,
)


@dataclasses.dataclass(frozen=True)
class Config(translate.Config):
  """Configuration of the bottleneck experiment; each field is a command-line flag."""

  workdir: str = field_spec("runs/bottleneck", "folder for both runs and the figure")


def bleu(rows: list[dict[str, str]], lowercase: bool) -> float:
  """Return the corpus BLEU of predicted translations; NaN if `rows` is empty.

  Args:
    rows: {"target": reference translation, "written": predicted translation} of each sentence.
    lowercase: whether to compare in lower case.
  """
  if not rows:
    return math.nan
  predictions = [row["written"] for row in rows]
  references = [[row["target"]] for row in rows]
  return seq2seq_common.corpus_bleu(predictions, references, lowercase)[0]


def source_length(row: dict[str, str]) -> int:
  """Return the number of words of the source sentence."""
  return len(row["source"].split())


def run(config: Config = Config()) -> dict:
  """Train both models and plot BLEU by sentence length.

  Returns:
    For each model, BLEU of all test sentences and BLEU of the long test sentences.

  Raises:
    InvalidInputError: --predict or --ensemble is set. Only `translate` supports these flags.
  """
  if config.predict or config.ensemble:
    raise InvalidInputError(
      "bottleneck trains two models, so --predict and --ensemble must be empty; use "
      f"`translate`. Got {config.predict!r} and {config.ensemble!r}"
    )
  curves, scores, tick_labels = {}, {}, []
  flags = {
    field.name: getattr(config, field.name) for field in dataclasses.fields(translate.Config)
  }
  for name, overrides in (("attention", {}), ("one vector", NO_ATTENTION)):
    workdir = str(pathlib.Path(config.workdir).expanduser() / name.replace(" ", "_"))
    translate.run(translate.Config(**flags | overrides | {"workdir": workdir}))
    lines = runner.run_file(workdir, "written.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    groups = [
      [row for row in rows if low < source_length(row) <= high]
      for low, high in zip((0, *LENGTH_BOUNDS), LENGTH_BOUNDS)
    ]
    curves[name] = [bleu(group, config.lowercase) for group in groups]
    tick_labels = [
      f"{high if high < 1000 else 'more'}\n({len(group)})"
      for high, group in zip(LENGTH_BOUNDS, groups)
    ]
    scores[f"{name}/bleu"] = bleu(rows, config.lowercase)
    long_rows = [row for row in rows if source_length(row) > LONG_SENTENCE]
    scores[f"{name}/long_bleu"] = bleu(long_rows, config.lowercase)
  xlabel = "maximum words of the source (number of sentences)"
  path = runner.run_file(config.workdir, "bottleneck.png")
  figures.plot_curves(path, curves, {}, xlabel, "BLEU", tick_labels)
  return {"dataset": config.data_dir or "embedded", "cell": config.cell} | scores


if __name__ == "__main__":
  cli.main(Config, run, translate.PRESETS)

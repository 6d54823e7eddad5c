"""Translation with and without attention, by sentence length.

  python -m experiments.bottleneck --workdir=runs/bottleneck
  python -m experiments.bottleneck --preset=multi30k --data_dir=multi30k --workdir=runs/bottleneck

Without attention the decoder sees the sentence as one vector of fixed size, however long the
sentence is. Flags are those of `translate`. A run that is finished in --workdir is not trained
again.
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

LENGTH_BOUNDS = (8, 10, 12, 15, 20, 1000)  # maximum words of the source in each group
LONG_SENTENCE = 15  # "long" sentences have more words than this
# Overrides of the run without attention: flags that need attention are switched off.
NO_ATTENTION = dict(
  attention="none",
  input_feeding=False,
  copy_attention=False,
  coverage_weight=0.0,
  coverage_penalty=0.0,
)


@dataclasses.dataclass(frozen=True)
class Config(translate.Config):
  """Configuration; each field is a flag."""

  workdir: str = field_spec("runs/bottleneck", "folder of both runs and of the figure")


def bleu(rows: list[dict[str, str]], lowercase: bool) -> float:
  """Return corpus BLEU of rows {"target", "written"}; NaN if there are none."""
  if not rows:
    return math.nan
  predictions = [row["written"] for row in rows]
  references = [[row["target"]] for row in rows]
  return seq2seq_common.corpus_bleu(predictions, references, lowercase)[0]


def source_length(row: dict[str, str]) -> int:
  """Return the number of words of the source."""
  return len(row["source"].split())


def run(config: Config = Config()) -> dict:
  """Train both models, plot BLEU by length, return BLEU of all and of long sentences.

  Raises:
    InvalidInputError: --predict or --ensemble is set, which only `translate` supports.
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

"""What does attention remove? Translation with and without it, by the length of the sentence.

  python -m experiments.bottleneck --workdir=runs/bottleneck
  python -m experiments.bottleneck --preset=multi30k --data_dir=multi30k --workdir=runs/bottleneck

Without attention all that a decoder knows of a sentence is one vector, however long the sentence.
Flags are those of `translate`; a run that has finished in --workdir is not trained again.
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

LENGTH_BOUNDS = (8, 10, 12, 15, 20, 1000)  # of the groups, in words of the source
LONG_SENTENCE = 15  # a sentence of more words is long


@dataclasses.dataclass(frozen=True)
class Config(translate.Config):
  workdir: str = field_spec("runs/bottleneck", "folder of both runs and of the figure")


def bleu(rows, lowercase: bool) -> float:
  """Corpus BLEU of {"target", "written"}; nan of none."""
  written, targets = ([row[name] for row in rows] for name in ("written", "target"))
  return (
    seq2seq_common.corpus_bleu(written, [[one] for one in targets], lowercase)[0]
    if rows
    else math.nan
  )


def run(config: Config = Config()):
  """Trains both; returns BLEU of each, of all and of long sentences, and draws it by length."""
  out, curves, scores, ticks = pathlib.Path(config.workdir).expanduser(), {}, {}, []
  names = [field.name for field in dataclasses.fields(translate.Config)]
  blind = dict(attention="none", feed=False, copy=False, coverage=0.0)  # nothing of attention's
  for name, changed in (("attention", {}), ("one vector", blind)):
    place = out / name.replace(" ", "_")
    shared = {n: getattr(config, n) for n in names}
    translate.run(translate.Config(**shared | changed | {"out": str(place)}))
    lines = runner.run_file(str(place), "written.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    length = lambda row: len(row["source"].split())
    groups = [
      [row for row in rows if low < length(row) <= high]
      for low, high in zip((0, *LENGTH_BOUNDS), LENGTH_BOUNDS)
    ]
    curves[name] = [bleu(group, config.lowercase) for group in groups]
    ticks = [
      f"{high if high < 1000 else 'more'}\n({len(g)})" for high, g in zip(LENGTH_BOUNDS, groups)
    ]
    scores[f"{name}/bleu"] = bleu(rows, config.lowercase)
    scores[f"{name}/long_bleu"] = bleu(
      [row for row in rows if length(row) > LONG_SENTENCE], config.lowercase
    )
  across = "words of the source, at most (and how many sentences)"
  figures.plot_curves(
    runner.run_file(config.workdir, "bottleneck.png"), curves, {}, across, "BLEU", ticks
  )
  return {"dataset": config.data_dir or "embedded", "cell": config.cell} | scores


if __name__ == "__main__":
  cli.main(Config, run, translate.PRESETS)

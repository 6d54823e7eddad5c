"""Does a tagger need the future? Forward against both directions, where later words decide.

  python -m experiments.directions --workdir=runs/directions

"Teddy bears are on sale !", "Teddy Roosevelt was a great president !": a net that has read only
"Teddy" can be right in one of the two. The best that any such net can reach is counted, and drawn
beside what nets learn on the generated sentences of `tagging`. A random field on top of the forward
net goes beyond it: the tag of "Roosevelt" decides on that of "Teddy", too.
"""

import dataclasses
import json
import pathlib

from experiments import tagging
from experiments.common import cli, train_config
from experiments.common.train_config import field_spec
from experiments.sequence_tagging import data as tagged_data
from experiments.sequence_tagging import synthetic_sentences
from rnnjax.analysis import figures

VARIANTS = {
  "forward": dict(bidirectional=False, crf=False),
  "forward, random field": dict(bidirectional=False, crf=True),
  "both directions": dict(bidirectional=True, crf=False),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  task: str = field_spec("ner", "what the tags say", tagged_data.TASKS)
  hidden_size: int = 64
  epochs: int = field_spec(8, "passes over the training part", min_value=2)
  batch_size: int = 32
  learning_rate: float = 1e-2
  ema_decay: float = 0.9
  workdir: str = "runs/directions"


def run(config: Config = Config()):
  """Trains each; returns what they reach on the test part, and the ceiling of the first."""
  out, curves, scores = pathlib.Path(config.workdir).expanduser(), {}, {}
  shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  for name, net in VARIANTS.items():
    place = out / name.replace(", ", "_").replace(" ", "_")
    shared |= {"out": str(place), "dataset": "embedded"}
    scores[f"test/{name}"] = tagging.run(tagging.Config(**shared | net))["test/accuracy"]
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    curves[name] = [row["valid/accuracy"] for row in rows]
  text = tagged_data.load("embedded", "", config.task)
  valid, test = (
    synthetic_sentences.max_forward_accuracy([s[:2] for s in part])
    for part in (text.valid, text.test)
  )
  level = {"the most that any net can reach that reads forward": valid}
  figures.plot_curves(out / "directions.png", curves, level, "epoch", "accuracy in validation")
  return {"dataset": "embedded", "cell": config.cell, "test/ceiling": test} | scores


if __name__ == "__main__":
  cli.main(Config, run)

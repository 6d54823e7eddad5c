"""Comparison of forward and bidirectional taggers on words whose tag depends on later words.

  python -m experiments.directions --workdir=runs/directions

Example: "Teddy bears are on sale !" and "Teddy Roosevelt was a great president !". A forward model
without a CRF predicts the tag of "Teddy" from this word only, so the tag is correct in at most one
of the two sentences. The figure shows the learning curves of taggers on the generated sentences of
`tagging`, and the maximum accuracy of any forward model without a CRF. A forward model with a CRF
can exceed this maximum, because the tag of "Roosevelt" also affects the tag of "Teddy".
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
  "forward, CRF": dict(bidirectional=False, crf=True),
  "both directions": dict(bidirectional=True, crf=False),
}


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  task: str = field_spec("ner", "tags to predict", tagged_data.TASKS)
  hidden_size: int = 64
  epochs: int = field_spec(8, "passes over the training set", min_value=2)
  batch_size: int = 32
  learning_rate: float = 1e-2
  ema_decay: float = 0.9
  workdir: str = "runs/directions"


def run(config: Config = Config()) -> dict:
  """Train each tagger; return all test accuracies and the maximum for forward models."""
  workdir, curves, scores = pathlib.Path(config.workdir).expanduser(), {}, {}
  shared_options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  for name, variant in VARIANTS.items():
    variant_dir = workdir / name.replace(", ", "_").replace(" ", "_")
    options = shared_options | {"workdir": str(variant_dir), "dataset": "embedded"} | variant
    scores[f"test/{name}"] = tagging.run(tagging.Config(**options))["test/accuracy"]
    lines = (variant_dir / "metrics.jsonl").read_text().splitlines()
    curves[name] = [json.loads(line)["valid/accuracy"] for line in lines]
  dataset = tagged_data.load("embedded", "", config.task)
  valid_limit, test_limit = (
    synthetic_sentences.max_forward_accuracy((s.words, s.tags) for s in split)
    for split in (dataset.valid, dataset.test)
  )
  figures.plot_curves(
    workdir / "directions.png",
    curves,
    {"maximum of any forward model": valid_limit},
    "epoch",
    "validation accuracy",
  )
  return {"dataset": "embedded", "cell": config.cell, "test/ceiling": test_limit} | scores


if __name__ == "__main__":
  cli.main(Config, run)

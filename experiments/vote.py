"""Classifiers that were trained apart say together what a review is.

  python -m experiments.vote --runs=runs/a,runs/b      # of `experiments.imdb`, of the same reviews

      p(k | review) = 1/M Σₘ pₘ(k | review)

(Hansen & Salamon 1990.) Each of the M runs reads the reviews as it did when it was trained: its own
words, n-grams and limits. None learns; the JSON line has the accuracy of each, and of all together.
"""

import dataclasses

import jax
import numpy as np
import tqdm

from experiments import command, imdb, learning
from experiments.options import option
from rnnjax import tasks, training
from rnnjax.types import BadInput

PARTS = "valid", "test"


@dataclasses.dataclass(frozen=True)
class Config:
  runs: str = option("", "--out of each run, A,B")
  data_dir: str = option("", "folder of the reviews, where it is no longer that of the runs")


def opinions(name: str, saved: training.Saved, config: imdb.Config):
  """What a classifier thinks of the reviews, and what they are.

  Args:
    name: of its run.
    saved, config: what that left behind.

  Returns:
    {part: p [N, K]} and {part: labels [N]}, in the order of the reviews.

  Raises:
    BadInput: it was trained on other reviews.
  """
  data = imdb.prepare(config)
  if (list(data.words), list(data.classes)) != (saved.beside["words"], saved.beside["classes"]):
    raise BadInput(f"{name!r} was trained on other reviews than those of {config.data_dir!r}")
  model = imdb.build(config, data.vocabulary, len(data.classes))
  predict, p = jax.jit(tasks.classification(model).predict), {}
  for part in PARTS:
    batches = getattr(data, part)
    p[part] = np.zeros((len(batches.labels), len(data.classes)))
    for rows, batch in zip(batches.plan(0), tqdm.tqdm(batches, f"{name} {part}", leave=False)):
      p[part][rows] = predict(saved.params, batch)["probabilities"][: len(rows)]
  return p, {part: np.asarray(getattr(data, part).labels) for part in PARTS}


def run(config: Config = Config()):
  """Returns the accuracy of each, in either part, and of all together."""
  if not config.runs:
    raise BadInput("--runs must name the --out of one run of imdb or more, A,B; got none")
  names, every, truth = config.runs.split(","), [], {}
  changes = {"data_dir": config.data_dir} if config.data_dir else {}
  runs = [learning.restore(imdb.Config, name, "classes", **changes) for name in names]
  for name, (saved, own) in zip(names, runs):
    p, labels = opinions(name, saved, own)
    if truth and not all(map(np.array_equal, truth.values(), labels.values())):
      raise BadInput(f"--runs must be of the same reviews; {name!r} read others than {names[0]!r}")
    every.append(p)
    truth = labels
  scores = {f"{part}/each": [accuracy(p[part], truth[part]) for p in every] for part in PARTS}
  mean = {part: np.mean([p[part] for p in every], 0) for part in PARTS}
  return {"runs": names} | scores | {
    f"{part}/accuracy": accuracy(mean[part], truth[part]) for part in PARTS
  }  # fmt: skip


def accuracy(p: np.ndarray, labels: np.ndarray) -> float:
  """The share of reviews [N] whose likeliest class, by p [N, K], is theirs."""
  return float(np.mean(p.argmax(-1) == labels))


if __name__ == "__main__":
  command.main(Config, run)

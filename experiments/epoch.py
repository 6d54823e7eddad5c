"""An epoch of the lecture notes' sentiment classifier, beside Keras on JAX, in one run.

  python -m experiments.epoch --data_dir=path/to/aclImdb         # pip install -e .[bench]

Vocabulary 5,000, embedding 32, LSTM 100, 600 words, batches of 64: 213,301 parameters on both
sides. rnnjax trains as `imdb --preset=notes` does, with lengths; and with zeros in front, all rows
600 long, as Keras does. The first epoch of each holds its compilation.
"""

import dataclasses
import os
import time

import jax
import numpy as np

from experiments import imdb
from experiments.common import cli
from experiments.common.train_config import option
from rnnjax import training
from rnnjax.data.vocabulary import PAD
from rnnjax.training import device_mesh, tasks


@dataclasses.dataclass(frozen=True)
class Config:
  dataset: str = option("auto", "which reviews", imdb.imdb_data.DATASETS)
  data_dir: str = option("", "folder of the reviews")
  batch: int = option(64, "rows of a batch", low=1)
  epochs: int = option(2, "epochs of each", low=1)


def ours(data, config) -> list[dict]:
  """Seconds of each epoch and of the test part after it."""
  task = tasks.classification(imdb.build(config, data.vocabulary, 2))
  optimizer, rows = training.adam(1e-3), []
  first = training.start(task, optimizer, next(data.train.stream()), jax.random.key(0))
  loop = training.train(task, optimizer, first, data.train.stream())
  for _ in range(config.epochs):
    begun = time.perf_counter()
    for _ in range(len(data.train)):
      state, _ = next(loop)
    jax.block_until_ready(state)
    trained = time.perf_counter()
    scores = training.evaluate(task, state.params, data.test)
    rows.append({"train_s": trained - begun, "test_s": time.perf_counter() - trained, **scores})
  return rows


def front(batches, limit):
  """The rows of a part as [N, limit], zeros in front, and their labels."""
  rows = np.full((len(batches.sequences), limit), PAD, np.int32)
  for row, text in zip(rows, batches.sequences):
    row[limit - min(len(text), limit) :] = text[-limit:]
  return rows, np.array(batches.labels)


def keras(data, config) -> list[dict]:
  """The same of Keras's own training loop."""
  os.environ["KERAS_BACKEND"] = "jax"
  from keras import Input, Sequential, layers

  net = Sequential(
    [
      Input((config.limit,)),
      layers.Embedding(config.vocabulary, config.width),
      layers.LSTM(config.hidden),
      layers.Dense(1, activation="sigmoid"),
    ]
  )
  net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
  train, test, rows = front(data.train, config.limit), front(data.test, config.limit), []
  for _ in range(config.epochs):
    begun = time.perf_counter()
    net.fit(*train, batch_size=config.batch, verbose=0)
    trained = time.perf_counter()
    loss, accuracy = net.evaluate(*test, batch_size=config.batch, verbose=0)
    spent = {"train_s": trained - begun, "test_s": time.perf_counter() - trained}
    rows.append(spent | {"accuracy": accuracy, "loss": loss})
  return rows


def run(config: Config = Config()):
  """Times both; returns the seconds of the last epoch and their ratios."""
  device_mesh.use_cores(config.batch)  # as `imdb` does
  notes = dict(imdb.PRESETS["notes"], epochs=config.epochs, batch=config.batch)
  notes |= dict(dataset=config.dataset, data_dir=config.data_dir)
  lengths, zeros = (imdb.Config(**notes, padding=padding) for padding in ("back", "front"))
  data = imdb.prepare(lengths)
  timed = {
    "lengths": ours(data, lengths),
    "zeros in front": ours(imdb.prepare(zeros), zeros),
    "keras": keras(data, lengths),
  }
  result = {"dataset": data.name}
  for name, rows in timed.items():
    result |= {f"{name}/{key}": round(value, 3) for key, value in rows[-1].items()}
    result |= {f"{name}/first_train_s": round(rows[0]["train_s"], 1)}
    result |= {f"{name}/keras": round(rows[-1]["train_s"] / timed["keras"][-1]["train_s"], 3)}
  return result


if __name__ == "__main__":
  cli.main(Config, run)

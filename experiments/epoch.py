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
from experiments.common.train_config import field_spec
from rnnjax import training
from rnnjax.data.vocabulary import PAD
from rnnjax.training import device_mesh, tasks


@dataclasses.dataclass(frozen=True)
class Config:
  dataset: str = field_spec("auto", "which reviews", imdb.imdb_data.DATASETS)
  data_dir: str = field_spec("", "folder of the reviews")
  batch_size: int = field_spec(64, "rows of a batch", min_value=1)
  epochs: int = field_spec(2, "epochs of each", min_value=1)


def time_rnnjax(data, config) -> list[dict]:
  """Seconds of each epoch and of the test part after it."""
  task = tasks.classification_task(imdb.build(config, data.vocabulary, 2))
  optimizer, rows = training.adam(1e-3), []
  first = training.init_state(task, optimizer, next(data.train.stream()), jax.random.key(0))
  loop = training.train_loop(task, optimizer, first, data.train.stream())
  for _ in range(config.epochs):
    begun = time.perf_counter()
    for _ in range(len(data.train)):
      state, _ = next(loop)
    jax.block_until_ready(state)
    trained = time.perf_counter()
    scores = training.evaluate(task, state.params, data.test)
    rows.append({"train_s": trained - begun, "test_s": time.perf_counter() - trained, **scores})
  return rows


def pad_front(batches, max_length):
  """The rows of a part as [N, limit], zeros in front, and their labels."""
  rows = np.full((len(batches.sequences), max_length), PAD, np.int32)
  for row, text in zip(rows, batches.sequences):
    row[max_length - min(len(text), max_length) :] = text[-max_length:]
  return rows, np.array(batches.labels)


def time_keras(data, config) -> list[dict]:
  """The same of Keras's own training loop."""
  os.environ["KERAS_BACKEND"] = "jax"
  from keras import Input, Sequential, layers

  net = Sequential(
    [
      Input((config.max_eval_length,)),
      layers.Embedding(config.vocab_size, config.embed_dim),
      layers.LSTM(config.hidden_size),
      layers.Dense(1, activation="sigmoid"),
    ]
  )
  net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
  train, test, rows = (
    pad_front(data.train, config.max_eval_length),
    pad_front(data.test, config.max_eval_length),
    [],
  )
  for _ in range(config.epochs):
    begun = time.perf_counter()
    net.fit(*train, batch_size=config.batch_size, verbose=0)
    trained = time.perf_counter()
    loss, accuracy = net.evaluate(*test, batch_size=config.batch_size, verbose=0)
    spent = {"train_s": trained - begun, "test_s": time.perf_counter() - trained}
    rows.append(spent | {"accuracy": accuracy, "loss": loss})
  return rows


def run(config: Config = Config()):
  """Times both; returns the seconds of the last epoch and their ratios."""
  device_mesh.use_cpu_cores_as_devices(config.batch_size)  # as `imdb` does
  notes = dict(imdb.PRESETS["notes"], epochs=config.epochs, batch=config.batch_size)
  notes |= dict(dataset=config.dataset, data_dir=config.data_dir)
  lengths, zeros = (imdb.Config(**notes, padding=padding) for padding in ("back", "front"))
  data = imdb.prepare(lengths)
  timed = {
    "lengths": time_rnnjax(data, lengths),
    "zeros in front": time_rnnjax(imdb.prepare(zeros), zeros),
    "keras": time_keras(data, lengths),
  }
  result = {"dataset": data.name}
  for name, rows in timed.items():
    result |= {f"{name}/{key}": round(value, 3) for key, value in rows[-1].items()}
    result |= {f"{name}/first_train_s": round(rows[0]["train_s"], 1)}
    result |= {f"{name}/keras": round(rows[-1]["train_s"] / timed["keras"][-1]["train_s"], 3)}
  return result


if __name__ == "__main__":
  cli.main(Config, run)

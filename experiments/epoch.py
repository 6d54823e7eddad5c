"""Time a training epoch of the lecture notes' sentiment classifier in rnnjax and in Keras on JAX.

  python -m experiments.epoch --data_dir=path/to/aclImdb         # pip install -e .[bench]

Both models have a vocabulary of 5,000 words, 32-dimensional embeddings, an LSTM with 100 units, and
213,301 parameters. They train on batches of 64 reviews of up to 600 words. rnnjax trains the model
of `imdb --preset=notes` twice: with sequence lengths, and with all rows padded at the front to 600
words, as in Keras. The time of each first epoch includes compilation.
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
  dataset: str = field_spec("auto", "dataset; auto prefers IMDB", imdb.imdb_data.DATASETS)
  data_dir: str = field_spec("", "folder of the dataset's original files")
  batch_size: int = field_spec(64, "rows of a batch", min_value=1)
  epochs: int = field_spec(2, "epochs of each implementation", min_value=1)


def time_rnnjax(data, config: imdb.Config) -> list[dict]:
  """Train with rnnjax; return {"train_s": seconds, "test_s": seconds, ...scores} per epoch."""
  task = tasks.classification_task(imdb.build(config, data.vocabulary, 2))
  optimizer = training.adam(1e-3)
  initial_state = training.init_state(task, optimizer, next(data.train.stream()), jax.random.key(0))
  states = training.train_loop(task, optimizer, initial_state, data.train.stream())
  rows = []
  for _ in range(config.epochs):
    start = time.perf_counter()
    for _ in range(len(data.train)):
      state, _ = next(states)
    jax.block_until_ready(state)
    trained = time.perf_counter()
    scores = training.evaluate(task, state.params, data.test)
    tested = time.perf_counter()
    rows.append({"train_s": trained - start, "test_s": tested - trained, **scores})
  return rows


def pad_front(batches, max_length: int) -> tuple[np.ndarray, np.ndarray]:
  """Return (token ids [N, max_length], labels [N]) of all sequences.

  Short sequences are padded at the front. Long sequences are truncated to their last tokens.
  """
  token_ids = np.full((len(batches.sequences), max_length), PAD, np.int32)
  for row, sequence in zip(token_ids, batches.sequences):
    row[max_length - min(len(sequence), max_length) :] = sequence[-max_length:]
  return token_ids, np.array(batches.labels)


def time_keras(data, config: imdb.Config) -> list[dict]:
  """Train with Keras; return {"train_s": seconds, "test_s": seconds, ...scores} per epoch."""
  os.environ["KERAS_BACKEND"] = "jax"
  from keras import Input, Sequential, layers

  model = Sequential(
    [
      Input((config.max_eval_length,)),
      layers.Embedding(config.vocab_size, config.embed_dim),
      layers.LSTM(config.hidden_size),
      layers.Dense(1, activation="sigmoid"),
    ]
  )
  model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
  train = pad_front(data.train, config.max_eval_length)
  test = pad_front(data.test, config.max_eval_length)
  rows = []
  for _ in range(config.epochs):
    start = time.perf_counter()
    model.fit(*train, batch_size=config.batch_size, verbose=0)
    trained = time.perf_counter()
    loss, accuracy = model.evaluate(*test, batch_size=config.batch_size, verbose=0)
    seconds = {"train_s": trained - start, "test_s": time.perf_counter() - trained}
    rows.append(seconds | {"accuracy": accuracy, "loss": loss})
  return rows


def run(config: Config = Config()) -> dict:
  """Train all models; return the times and test scores of the last epoch.

  "MODEL/keras" is the training time of a model divided by the training time of Keras.
  """
  device_mesh.use_cpu_cores_as_devices(config.batch_size)  # the same devices as in `imdb`
  options = imdb.PRESETS["notes"] | dict(
    epochs=config.epochs,
    batch_size=config.batch_size,
    dataset=config.dataset,
    data_dir=config.data_dir,
  )
  lengths, zeros = (imdb.Config(**options, padding=padding) for padding in ("back", "front"))
  data = imdb.prepare(lengths)
  rows_by_name = {
    "lengths": time_rnnjax(data, lengths),
    "zeros in front": time_rnnjax(imdb.prepare(zeros), zeros),
    "keras": time_keras(data, lengths),
  }
  keras_seconds = rows_by_name["keras"][-1]["train_s"]
  result = {"dataset": data.name}
  for name, rows in rows_by_name.items():
    result |= {f"{name}/{key}": round(value, 3) for key, value in rows[-1].items()}
    result[f"{name}/first_train_s"] = round(rows[0]["train_s"], 1)
    result[f"{name}/keras"] = round(rows[-1]["train_s"] / keras_seconds, 3)
  return result


if __name__ == "__main__":
  cli.main(Config, run)

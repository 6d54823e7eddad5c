"""Keras' outputs for its recurrent layers, written to golden/keras.json.

In an environment of its own, which needs only keras (3.15.1 wrote the file) and jax:

  KERAS_BACKEND=jax python tests/keras_reference.py

All numbers are float32, for Keras on JAX knows no wider ones, and batch-major; no weight is zero.
Weights are those of get_weights(), layer by layer, and their paths stand beside them.
"""

import json
import pathlib

B, T, D, H = 2, 5, 3, 4
PATH = pathlib.Path(__file__).parent / "golden" / "keras.json"


def build_networks(layers):
  """The layers of each network that is compared, the lowest first."""
  every = dict(return_sequences=True)
  both = lambda layer, **options: layers.Bidirectional(layer(H, **every), **options)
  return {
    "rnn_tanh": [layers.SimpleRNN(H, **every)],
    "rnn_relu": [layers.SimpleRNN(H, activation="relu", **every)],
    "lstm": [layers.LSTM(H, **every)],
    "lstm_unbiased": [layers.LSTM(H, use_bias=False, **every)],
    "gru": [layers.GRU(H, **every)],
    "gru_before": [layers.GRU(H, reset_after=False, **every)],
    "lstm_bidirectional": [both(layers.LSTM), both(layers.LSTM)],
    "gru_bidirectional": [both(layers.GRU, merge_mode="ave"), layers.GRU(H, **every)],
  }


def reference_values(keras, net):
  """One network's inputs, weights and outputs, as nested lists."""
  seeds = keras.random.SeedGenerator(0)
  draw = lambda *shape: 0.5 * keras.random.normal(shape, seed=seeds)
  xs = ys = draw(B, T, D)
  for layer in net:
    layer.build(ys.shape)
    layer.set_weights([draw(*w.shape) for w in layer.weights])
    ys = layer(ys)
  return {
    "xs": xs.tolist(),
    "weights": [[w.tolist() for w in layer.get_weights()] for layer in net],
    "paths": [[w.path for w in layer.weights] for layer in net],
    "ys": ys.tolist(),
  }


def main():
  import keras

  made = {name: reference_values(keras, net) for name, net in build_networks(keras.layers).items()}
  PATH.write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
  main()

"""Outputs of Keras' recurrent layers, written to golden/keras.json.

Run it in a separate environment with keras (3.15.1 wrote the file) and jax:

  KERAS_BACKEND=jax python tests/keras_reference.py

All numbers are float32, the widest dtype of Keras on JAX, and batch-major. No weight is zero.
Weights and their paths are in the order of get_weights(), layer by layer.
"""

import json
import pathlib

B, T, D, H = 2, 5, 3, 4
PATH = pathlib.Path(__file__).parent / "golden" / "keras.json"


def build_networks(layers):
  """Return the layers of each network to compare, the first layer first."""
  sequences = dict(return_sequences=True)

  def bidirectional(layer, **options):
    return layers.Bidirectional(layer(H, **sequences), **options)

  return {
    "rnn_tanh": [layers.SimpleRNN(H, **sequences)],
    "rnn_relu": [layers.SimpleRNN(H, activation="relu", **sequences)],
    "lstm": [layers.LSTM(H, **sequences)],
    "lstm_unbiased": [layers.LSTM(H, use_bias=False, **sequences)],
    "gru": [layers.GRU(H, **sequences)],
    "gru_before": [layers.GRU(H, reset_after=False, **sequences)],
    "lstm_bidirectional": [bidirectional(layers.LSTM), bidirectional(layers.LSTM)],
    "gru_bidirectional": [bidirectional(layers.GRU, merge_mode="ave"), layers.GRU(H, **sequences)],
  }


def reference_values(keras, network):
  """Return a network's inputs, weights and outputs, as nested lists."""
  seeds = keras.random.SeedGenerator(0)

  def random(*shape):
    return 0.5 * keras.random.normal(shape, seed=seeds)

  xs = ys = random(B, T, D)
  for layer in network:
    layer.build(ys.shape)
    layer.set_weights([random(*w.shape) for w in layer.weights])
    ys = layer(ys)
  return {
    "xs": xs.tolist(),
    "weights": [[w.tolist() for w in layer.get_weights()] for layer in network],
    "paths": [[w.path for w in layer.weights] for layer in network],
    "ys": ys.tolist(),
  }


def main():
  import keras

  networks = build_networks(keras.layers)
  values = {name: reference_values(keras, network) for name, network in networks.items()}
  PATH.write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
  main()

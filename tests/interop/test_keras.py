"""Conversion from and to Keras: outputs match recorded ones (keras_reference.py); round trips."""

import json

import jax
import numpy as np
import pytest

from rnnjax import bidirectional, forward, gru, lstm, stack, vanilla
from rnnjax.interop.keras import from_keras, to_keras
from rnnjax.types import InvalidInputError
from tests.keras_reference import PATH, D, H

GOLDEN = json.loads(PATH.read_text())
ENCODERS = {
  "rnn_tanh": stack(forward(vanilla(H))),
  "rnn_relu": stack(forward(vanilla(H, activation="relu"))),
  "lstm": stack(forward(lstm(H))),
  "lstm_unbiased": stack(forward(lstm(H))),
  "gru": stack(forward(gru(H))),
  "gru_before": stack(forward(gru(H, reset="before"))),
  "lstm_bidirectional": stack(*[bidirectional(lstm(H), lstm(H))] * 2),
  "gru_bidirectional": stack(bidirectional(gru(H), gru(H), "mean"), forward(gru(H))),
}


def random_params(module):
  """Return parameters of an encoder or cell, none of them zero."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), D))
  return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)


def assert_trees_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_keras(name):
  """Outputs match at every step; an encoder is time-major, Keras batch-major."""
  golden = GOLDEN[name]
  xs = np.float32(golden["xs"]).swapaxes(0, 1)
  _, ys = jax.jit(ENCODERS[name].apply)(from_keras(*golden["weights"]), xs)
  np.testing.assert_allclose(ys.swapaxes(0, 1), golden["ys"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_keras_weights_round_trip(name):
  """Weights are unchanged, but biases of a GRU that Keras adds are merged into the first."""
  layers = [[np.float32(w) for w in layer] for layer in GOLDEN[name]["weights"]]
  for original, converted in zip(layers, to_keras(from_keras(*layers)), strict=True):
    if name == "lstm_unbiased":
      original = [*original, np.zeros(4 * H)]
    for expected, actual in zip(original, converted, strict=True):
      if expected.shape == (2, 3 * H):
        gates, candidate = np.split(expected, [2 * H], -1)
        merged_gates = np.stack([gates[0] + gates[1], 0 * gates[1]])
        expected = np.concatenate([merged_gates, candidate], -1)
      np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_by_path_in_any_order(name):
  golden = GOLDEN[name]
  by_path = [dict(sorted(zip(*layer))) for layer in zip(golden["paths"], golden["weights"])]
  assert_trees_equal(from_keras(*by_path), from_keras(*golden["weights"]))


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_params_round_trip(encoder):
  params = random_params(encoder)
  assert_trees_equal(from_keras(*to_keras(params)), params)


def test_single_layer_becomes_stack():
  params = random_params(bidirectional(gru(H), gru(H)))
  assert_trees_equal(from_keras(*to_keras(params)), {"layer_0": params})


def ones_arrays(*shapes):
  return [np.ones(shape) for shape in shapes]


@pytest.mark.parametrize(
  "weights, message",
  [
    (ones_arrays((D, 4 * H)), "layer 0 must have kernel.* got 1 array"),
    (ones_arrays((D, 3 * H), (H, 3 * H)), r"without bias.*\(2, 12\) for reset_after=True"),
    (ones_arrays((D, 4 * H), (H, 4 * H), (2, 4 * H)), r"bias must have shape \(16,\)"),
    (ones_arrays((D, 3 * H), (H, 3 * H), (3, 3 * H)), r"bias must have shape \(2, 12\)"),
    (ones_arrays((D, 3 * H), (H, 4 * H), 4 * H), r"kernel must have shape \(3, 16\)"),
    (ones_arrays((D, 2 * H), (H, 2 * H), 2 * H), "recurrent_kernel must be G times 4 wide.*got 8"),
    ([*ones_arrays((D, H), (H, H)), "no array"], "bias cannot be read as an array"),
    ([*ones_arrays((D, H), (H, H)), np.ones(H, int)], "bias must be floating point; got int"),
    (
      ones_arrays((D, H), (H, H), H, (H, H), (H, H), H),
      "read 3 and 4 features. Are they two layers",
    ),
    ({"one/x/kernel": 1, "two/x/kernel": 1}, "more than one layer: one/x/kernel, two/x/kernel"),
    ({"lstm/lstm_cell/kernels": 1}, "'lstm/lstm_cell/kernels'; its weights must be"),
  ],
)
def test_invalid_weights_raise(weights, message):
  with pytest.raises(InvalidInputError, match=message):
    from_keras(weights)


@pytest.mark.parametrize(
  "params, message",
  [
    (random_params(forward(lstm(2, cell_size=H))), "layer_0/forward .* got .*'P'"),
    (random_params(forward(lstm(H, peepholes=True))), "layer_0/forward .* got .*'p'"),
    (
      {"encoder": random_params(forward(lstm(H)))},
      r"layer_0 must have forward.* got \['encoder'\]",
    ),
    ({"backward": random_params(lstm(H))}, r"got \['backward'\]"),
    ({"layer_0": random_params(forward(lstm(H))), "layer_2": {}}, "layer_1 must have forward"),
    ({"forward": random_params(lstm(H)) | {"b": np.ones(3)}}, r"forward/b must have shape \(16,\)"),
    (
      {"forward": random_params(lstm(H)) | {"b_hn": np.ones(H)}},
      "the b_hn of a GRU, but .* an LSTM",
    ),
  ],
)
def test_unsupported_params_raise(params, message):
  with pytest.raises(InvalidInputError, match=message):
    to_keras(params)

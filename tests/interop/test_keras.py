"""Keras' numbers, written once by keras_reference.py: outputs equal ours, and weights come back."""

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


def random_params(net):
  """The parameters of an encoder or cell, none of them zero."""
  draw = np.random.default_rng(0)
  init = jax.eval_shape(lambda: net.init(jax.random.key(0), D))
  return jax.tree.map(lambda p: draw.normal(size=p.shape).astype(np.float32), init)


def assert_trees_equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_keras(name):
  """Outputs, at every step; an encoder is time-major, Keras batch-major."""
  golden = GOLDEN[name]
  xs = np.float32(golden["xs"]).swapaxes(0, 1)
  _, ys = jax.jit(ENCODERS[name].apply)(from_keras(*golden["weights"]), xs)
  np.testing.assert_allclose(ys.swapaxes(0, 1), golden["ys"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_keras_weights_round_trip(name):
  """As Keras gave them, but what it adds of a GRU's two biases stands in the first."""
  given = [[np.float32(w) for w in layer] for layer in GOLDEN[name]["weights"]]
  added = lambda w: np.stack([w[0] + w[1], 0 * w[1]])[:, : 2 * H]
  for before, after in zip(given, to_keras(from_keras(*given)), strict=True):
    if name == "lstm_unbiased":
      before = [*before, np.zeros(4 * H)]
    for theirs, ours in zip(before, after, strict=True):
      if theirs.shape == (2, 3 * H):
        theirs = np.concatenate([added(theirs), theirs[:, 2 * H :]], -1)
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_by_path_in_any_order(name):
  """In any order, as a file has them."""
  golden = GOLDEN[name]
  named = [dict(sorted(zip(*layer))) for layer in zip(golden["paths"], golden["weights"])]
  assert_trees_equal(from_keras(*named), from_keras(*golden["weights"]))


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
  "weights, words",
  [
    (ones_arrays((D, 4 * H)), "layer 0 must have kernel.* got 1 array"),
    (ones_arrays((D, 3 * H), (H, 3 * H)), r"without bias.*\(2, 12\) for reset_after=True"),
    (ones_arrays((D, 4 * H), (H, 4 * H), (2, 4 * H)), r"bias must have shape \(16,\)"),
    (ones_arrays((D, 3 * H), (H, 3 * H), (3, 3 * H)), r"bias must have shape \(2, 12\)"),
    (ones_arrays((D, 3 * H), (H, 4 * H), 4 * H), r"kernel must have shape \(3, 16\)"),
    (ones_arrays((D, 2 * H), (H, 2 * H), 2 * H), "recurrent_kernel must be G times 4 wide.*got 8"),
    ([*ones_arrays((D, H), (H, H)), "no array"], "bias cannot be read as an array"),
    ([*ones_arrays((D, H), (H, H)), np.ones(H, int)], "bias must be floating numbers; got int"),
    (
      ones_arrays((D, H), (H, H), H, (H, H), (H, H), H),
      "read 3 and 4 features. Are they two layers",
    ),
    ({"one/x/kernel": 1, "two/x/kernel": 1}, "more than one layer: one/x/kernel, two/x/kernel"),
    ({"lstm/lstm_cell/kernels": 1}, "'lstm/lstm_cell/kernels', which is none of"),
  ],
)
def test_invalid_weights_raise(weights, words):
  with pytest.raises(InvalidInputError, match=words):
    from_keras(weights)


@pytest.mark.parametrize(
  "params, words",
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
    ({"forward": random_params(lstm(H)) | {"b_hn": np.ones(H)}}, "a GRU's b_hn, but .* an LSTM"),
  ],
)
def test_unsupported_params_raise(params, words):
  with pytest.raises(InvalidInputError, match=words):
    to_keras(params)

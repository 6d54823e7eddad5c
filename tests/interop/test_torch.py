"""Conversion from and to PyTorch: outputs and gradients match recorded ones (torch_reference.py).

Round trips, and weights that cannot be converted.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import bidirectional, forward, gru, lstm, mingru, stack, vanilla
from rnnjax.interop import safetensors
from rnnjax.interop.torch import from_torch, to_torch
from rnnjax.types import InvalidInputError
from tests.torch_reference import PATH, D, H

pytestmark = pytest.mark.usefixtures("float64")
GOLDEN = json.loads(PATH.read_text())
ENCODERS = {
  "rnn_tanh": stack(forward(vanilla(H))),
  "rnn_relu": stack(forward(vanilla(H, activation="relu"))),
  "lstm": stack(forward(lstm(H))),
  "lstm_projected": stack(forward(lstm(2, cell_size=H))),
  "gru": stack(forward(gru(H))),
  "lstm_bidirectional": stack(*[bidirectional(lstm(H), lstm(H))] * 2),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_and_gradients_equal_torch(name):
  """Outputs, final states, loss, and gradients of the inputs and of PyTorch's weights match."""
  golden = GOLDEN[name]
  lengths = golden["lengths"] and np.array(golden["lengths"])

  def loss(weights, xs):
    carries, ys = ENCODERS[name].apply(from_torch(weights), xs, lengths)
    # PyTorch stacks the final states, [layers · directions, B, H]: by layer, forward first.
    ordered = [
      carries[layer][direction]
      for layer in sorted(carries)
      for direction in ("forward", "backward")
      if direction in carries[layer]
    ]
    final_states = [jnp.stack(states) for states in zip(*ordered)]
    total = jnp.sin(ys).sum() + sum(jnp.cos(state).sum() for state in final_states)
    return total, (ys, final_states)

  weights = jax.tree.map(np.array, golden["weights"], is_leaf=lambda w: isinstance(w, list))
  loss_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (total, (ys, final_states)), (gradients, xs_gradient) = loss_and_gradients(
    weights, np.array(golden["xs"])
  )
  assert_close(ys, golden["ys"])
  assert_close(total, golden["loss"])
  assert_close(xs_gradient, golden["xs_gradient"])
  for actual, expected in zip(final_states, golden["ends"], strict=True):
    assert_close(actual, expected)
  assert gradients.keys() == golden["gradients"].keys()
  for weight, gradient in gradients.items():
    assert_close(gradient, golden["gradients"][weight])


def assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def random_params(module):
  """Return parameters of an encoder or cell, none of them zero."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), D))
  return jax.tree.map(lambda p: rng.normal(size=p.shape), shapes)


def assert_trees_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def bidirectional_of(cell, merge="concat"):
  return bidirectional(cell, cell, merge)


TREES = ENCODERS | {
  "lstm_3": stack(*[forward(lstm(H))] * 3),
  "gru_bidirectional": stack(*[bidirectional_of(gru(H))] * 2),
  "lstm_projected_bidirectional": stack(*[bidirectional_of(lstm(2, cell_size=H))] * 2),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_torch_weights_round_trip(name):
  """Weights are unchanged, but biases that PyTorch adds are merged into bias_ih."""
  weights = {part: np.array(w) for part, w in GOLDEN[name]["weights"].items()}
  expected, merged = dict(weights), slice(0, 2 * H if name == "gru" else None)
  for part in weights:
    if part.startswith("bias_ih"):
      ih, hh = expected[part].copy(), expected[part.replace("ih", "hh")].copy()
      ih[merged], hh[merged] = ih[merged] + hh[merged], 0
      expected |= {part: ih, part.replace("ih", "hh"): hh}
  assert_trees_equal(to_torch(from_torch(weights)), expected)


@pytest.mark.parametrize("encoder", TREES.values(), ids=TREES)
def test_params_round_trip(encoder, tmp_path):
  """Parameters survive a file, as part of a larger model."""
  params, path = random_params(encoder), str(tmp_path / "model.safetensors")
  safetensors.save(path, to_torch(params, "encoder.rnn.") | {"head.bias": np.ones(2)})
  assert_trees_equal(from_torch(safetensors.load(path), "encoder.rnn."), params)


@pytest.mark.parametrize("cell", [vanilla(H), lstm(H), gru(H)], ids=str)
def test_single_cell_and_single_layer_round_trip(cell):
  """The weight names of a cell have no layer; a single layer becomes a stack of one."""
  state_dict = to_torch(random_params(cell))
  assert state_dict.keys() == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
  assert_trees_equal(from_torch(state_dict), random_params(cell))
  assert_trees_equal(
    from_torch(to_torch(random_params(bidirectional_of(cell)))),
    {"layer_0": random_params(bidirectional_of(cell))},
  )


@pytest.mark.parametrize("name", GOLDEN)
def test_missing_biases_become_zero(name):
  weights = {part: np.array(w) for part, w in GOLDEN[name]["weights"].items()}
  zeros = {part: 0 * w for part, w in weights.items() if part.startswith("bias")}
  assert_trees_equal(
    from_torch({part: w for part, w in weights.items() if part not in zeros}),
    from_torch(weights | zeros),
  )


def remove_weight(name):
  return lambda w: {part: a for part, a in w.items() if part != name}


def replace_weight(name, *shape, dtype=float):
  return lambda w: w | {name: np.ones(shape, dtype)}


def projected_rnn_weights():
  shapes = {"weight_ih_l0": (H, D), "weight_hh_l0": (H, 2), "weight_hr_l0": (2, H)}
  return {part: np.ones(shape) for part, shape in shapes.items()}


@pytest.mark.parametrize(
  "change, message",
  [
    (remove_weight("weight_hh_l1_reverse"), r"Missing: weight_hh_l1_reverse\. Unknown: none"),
    (remove_weight("bias_hh_l0"), r"Missing: bias_hh_l0\."),
    (remove_weight("weight_ih_l0"), r"Missing: weight_ih_l0\. Unknown: .*_l1"),
    (replace_weight("weight_xx_l0", 2), "Missing: none. Unknown: weight_xx_l0"),
    (replace_weight("weight_hr_l0", 2, H), "Missing: weight_hr_l0_reverse, weight_hr_l1"),
    (replace_weight("bias_ih_l0", 17), r"bias_ih_l0 must have shape \(16,\).*got \(17,\)"),
    (replace_weight("weight_ih_l1", 16, H), r"weight_ih_l1 must have shape \(16, 8\)"),
    (replace_weight("weight_hh_l0", 2 * H, H), "weight_hh_l0 must be G times 4 wide.*got 8"),
    (replace_weight("weight_hh_l0", 4 * H), "weight_hh_l0 must be G times"),
    (replace_weight("weight_ih_l0", 4 * H), "weight_ih_l0 must have shape"),
    (replace_weight("bias_ih_l0", 16, dtype=np.int8), "bias_ih_l0 .* int8. Is it quantized"),
    (replace_weight("bias_ih_l0", 16, dtype=str), "bias_ih_l0 cannot be read as an array"),
    (
      lambda w: projected_rnn_weights(),
      "projection, .* got a vanilla cell of 4 units and 2 outputs",
    ),
    (
      lambda w: {f"net.lstm.{part}": a for part, a in w.items()},
      r"prefixes of weight_ih are \['net.lstm.'\]",
    ),
    (lambda w: {}, "there is no weight_ih with the prefix ''"),
  ],
)
def test_invalid_weights_raise(change, message):
  state_dict = to_torch(random_params(ENCODERS["lstm_bidirectional"]))
  with pytest.raises(InvalidInputError, match=message):
    from_torch(change(state_dict))


@pytest.mark.parametrize(
  "encoder, message",
  [
    (forward(gru(H, reset="before")), r"no b_hn. Is it gru\(reset='before'\)"),
    (forward(lstm(H, coupled=True)), r"no b_hn. .* or lstm\(coupled=True\)"),
    (forward(lstm(H, peepholes=True)), "layer_0/forward .* got .*'p'"),
    (forward(mingru(H)), "layer_0/forward must have W, U and b"),
    (forward(lstm(H, cell_size=H)), "projection, .* an LSTM of 4 units and 4 outputs"),
    (
      forward(lstm(H), learned_initial_carry=True),
      "layer_0 must have forward.*a learned initial carry",
    ),
    (stack(bidirectional_of(lstm(H)), forward(lstm(H))), "Missing: .*weight_ih_l1_reverse"),
    (stack(*[bidirectional_of(lstm(H), "sum")] * 2), r"weight_ih_l1 must have shape \(16, 8\)"),
    (stack(forward(lstm(H)), forward(lstm(H + 1))), "weight_ih_l1 must have shape"),
    (stack(forward(lstm(H)), forward(gru(H))), "weight_ih_l1 must have shape"),
  ],
)
def test_unsupported_params_raise(encoder, message):
  with pytest.raises(InvalidInputError, match=message):
    to_torch(random_params(encoder))


def test_non_mapping_raises():
  with pytest.raises(InvalidInputError, match="must be parameters, a mapping; got ndarray"):
    to_torch({"forward": np.zeros(3)})

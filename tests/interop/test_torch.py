"""PyTorch's numbers, written once by torch_reference.py: outputs and gradients equal ours.

And weights that go to PyTorch and come back, and those that are refused.
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
  """Outputs, last states, loss, and the gradients for inputs and for torch's own weights."""
  golden = GOLDEN[name]
  lengths = golden["lengths"] and np.array(golden["lengths"])

  def loss(weights, xs):
    ends, ys = ENCODERS[name].apply(from_torch(weights), xs, lengths)
    # torch stacks the last states, [layers · directions, B, H]: layer by layer, forward first.
    order = [ends[l][d] for l in sorted(ends) for d in ("forward", "backward") if d in ends[l]]
    stacked = [jnp.stack(part) for part in zip(*order)]
    total = jnp.sin(ys).sum() + sum(jnp.cos(end).sum() for end in stacked)
    return total, (ys, stacked)

  weights = jax.tree.map(np.array, golden["weights"], is_leaf=lambda w: isinstance(w, list))
  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (total, (ys, ends)), (gradients, xs_gradient) = run(weights, np.array(golden["xs"]))
  close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
  close(ys, golden["ys"])
  close(total, golden["loss"])
  close(xs_gradient, golden["xs_gradient"])
  for ours, theirs in zip(ends, golden["ends"], strict=True):
    close(ours, theirs)
  assert gradients.keys() == golden["gradients"].keys()
  for weight, gradient in gradients.items():
    close(gradient, golden["gradients"][weight])


def random_params(net):
  """The parameters of an encoder or cell, none of them zero."""
  draw = np.random.default_rng(0)
  init = jax.eval_shape(lambda: net.init(jax.random.key(0), D))
  return jax.tree.map(lambda p: draw.normal(size=p.shape), init)


def assert_trees_equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def bidirectional_of(cell, merge="concat"):
  return bidirectional(cell, cell, merge)


TREES = ENCODERS | {
  "lstm_3": stack(*[forward(lstm(H))] * 3),
  "gru_bidirectional": stack(*[bidirectional_of(gru(H))] * 2),
  "lstm_projected_bidirectional": stack(*[bidirectional_of(lstm(2, cell_size=H))] * 2),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_torch_weights_round_trip(name):
  """As torch gave them, but what it adds of two biases stands in bias_ih."""
  given = {part: np.array(w) for part, w in GOLDEN[name]["weights"].items()}
  expected, added = dict(given), slice(0, 2 * H if name == "gru" else None)
  for part in given:
    if part.startswith("bias_ih"):
      ih, hh = expected[part].copy(), expected[part.replace("ih", "hh")].copy()
      ih[added], hh[added] = ih[added] + hh[added], 0
      expected |= {part: ih, part.replace("ih", "hh"): hh}
  assert_trees_equal(to_torch(from_torch(given)), expected)


@pytest.mark.parametrize("encoder", TREES.values(), ids=TREES)
def test_params_round_trip(encoder, tmp_path):
  """Through a file and out of a larger model."""
  params, path = random_params(encoder), str(tmp_path / "model.safetensors")
  safetensors.save(path, to_torch(params, "encoder.rnn.") | {"head.bias": np.ones(2)})
  assert_trees_equal(from_torch(safetensors.load(path), "encoder.rnn."), params)


@pytest.mark.parametrize("cell", [vanilla(H), lstm(H), gru(H)], ids=str)
def test_single_cell_and_single_layer_round_trip(cell):
  """The names of a cell have no layer; one layer alone is a stack of one."""
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
  "change, words",
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
    (replace_weight("bias_ih_l0", 16, dtype=np.int8), "bias_ih_l0 .* int8. Is it quantised"),
    (replace_weight("bias_ih_l0", 16, dtype=str), "bias_ih_l0 cannot be read as an array"),
    (
      lambda w: projected_rnn_weights(),
      "projection, .* got a vanilla cell whose width of 4 becomes 2",
    ),
    (lambda w: {f"net.lstm.{part}": a for part, a in w.items()}, r"behind \['net.lstm.'\]"),
    (lambda w: {}, "no weight_ih stands behind the prefix ''"),
  ],
)
def test_invalid_weights_raise(change, words):
  state_dict = to_torch(random_params(ENCODERS["lstm_bidirectional"]))
  with pytest.raises(InvalidInputError, match=words):
    from_torch(change(state_dict))


@pytest.mark.parametrize(
  "encoder, words",
  [
    (forward(gru(H, reset="before")), r"no b_hn. Is it gru\(reset='before'\)"),
    (forward(lstm(H, coupled=True)), r"no b_hn. .* or lstm\(coupled=True\)"),
    (forward(lstm(H, peepholes=True)), "layer_0/forward .* got .*'p'"),
    (forward(mingru(H)), "layer_0/forward must have W, U and b"),
    (forward(lstm(H, cell_size=H)), "projection, .* an LSTM whose width of 4 becomes 4"),
    (forward(lstm(H), learned_initial_carry=True), "layer_0 must have forward.*a learned start"),
    (stack(bidirectional_of(lstm(H)), forward(lstm(H))), "Missing: .*weight_ih_l1_reverse"),
    (stack(*[bidirectional_of(lstm(H), "sum")] * 2), r"weight_ih_l1 must have shape \(16, 8\)"),
    (stack(forward(lstm(H)), forward(lstm(H + 1))), "weight_ih_l1 must have shape"),
    (stack(forward(lstm(H)), forward(gru(H))), "weight_ih_l1 must have shape"),
  ],
)
def test_unsupported_params_raise(encoder, words):
  with pytest.raises(InvalidInputError, match=words):
    to_torch(random_params(encoder))


def test_non_mapping_raises():
  with pytest.raises(InvalidInputError, match="must be parameters, a mapping; got ndarray"):
    to_torch({"forward": np.zeros(3)})

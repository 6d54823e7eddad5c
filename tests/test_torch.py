"""PyTorch's numbers, written once by torch_reference.py: outputs and gradients equal ours.

Gate order is one and the same. So W = weight_ihᵀ, U = weight_hhᵀ and b = bias_ih + bias_hh, save
for a GRU, whose candidate keeps the third part of bias_hh inside as b_hn; P = weight_hrᵀ.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import bidirectional, forward, gru, lstm, stack, vanilla
from tests.torch_reference import PATH, H

pytestmark = pytest.mark.usefixtures("float64")
GOLDEN = json.loads(PATH.read_text())
ENCODERS = {
  "rnn_tanh": forward(vanilla(H)),
  "rnn_relu": forward(vanilla(H, activation="relu")),
  "lstm": forward(lstm(H)),
  "lstm_projected": forward(lstm(2, cells=H)),
  "gru": forward(gru(H)),
  "lstm_bidirectional": stack(*[bidirectional(lstm(H), lstm(H))] * 2),
}


def cell_params(weights, suffix):
  """The parameters of one cell from torch's names; differentiable, so that gradients map too."""
  w = {k.removesuffix(suffix): jnp.asarray(v) for k, v in weights.items() if k.endswith(suffix)}
  params = {"W": w["weight_ih_"].T, "U": w["weight_hh_"].T}
  if "weight_hr_" in w:
    params["P"] = w["weight_hr_"].T
  if len(w["bias_hh_"]) == 3 * H:
    params["b_hn"] = w["bias_hh_"][2 * H :]
    return params | {"b": w["bias_ih_"].at[: 2 * H].add(w["bias_hh_"][: 2 * H])}
  return params | {"b": w["bias_ih_"] + w["bias_hh_"]}


def encoder_params(name, weights):
  """The parameters of an encoder, layer by layer and direction by direction."""
  if name != "lstm_bidirectional":
    return {"forward": cell_params(weights, "l0")}
  return {
    f"layer_{l}": {
      "forward": cell_params(weights, f"l{l}"),
      "backward": cell_params(weights, f"l{l}_reverse"),
    }
    for l in range(2)
  }


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_torch(name):
  """Outputs, last states, loss, and the gradients for inputs and for torch's own weights."""
  golden = GOLDEN[name]
  lengths = golden["lengths"] and np.array(golden["lengths"])

  def loss(weights, xs):
    ends, ys = ENCODERS[name].apply(encoder_params(name, weights), xs, lengths)
    # torch stacks the last states, [layers · directions, B, H]: layer by layer, forward first.
    layers = [ends[l] for l in sorted(ends)] if "layer_0" in ends else [ends]
    order = [end[d] for end in layers for d in ("forward", "backward") if d in end]
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

"""Vectors in, vectors out: batches of them, the model beside its equation, and what is learnt."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import forward, gru
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.masking import padding_mask
from rnnjax.models.sequence_labeler import SequenceLabeler
from rnnjax.training import metrics, tasks
from rnnjax.unroll import unroll


def test_batches_of_vector_sequences():
  """Each sequence is there, as it is, and 0 beyond its end."""
  draw = np.random.default_rng(0)
  sequences = [draw.normal(size=(n, 3)) for n in (5, 2, 9, 4, 1)]
  seen = {}
  for made in BucketedBatches(sequences, range(5), 2):
    assert made["tokens"].dtype == np.float32
    for b in np.flatnonzero(made["weights"]):
      n = made["lengths"][b]
      seen[int(made["labels"][b])] = made["tokens"][:n, b]
      assert not made["tokens"][n:, b].any()
  for i, sequence in enumerate(sequences):
    np.testing.assert_array_equal(seen[i], sequence.astype(np.float32))


@pytest.mark.parametrize("embedding", [None, nn.Dense(5)], ids=["bare", "embedded"])
def test_outputs_equal_reference(embedding):
  cell = gru(4)
  model = SequenceLabeler(forward(cell), 2, embedding, input_dropout=0.9, output_dropout=0.9)
  draw = np.random.default_rng(1)
  xs, lengths = draw.normal(size=(6, 3, 7)).astype(np.float32), np.array([6, 2, 0])
  params = model.init(jax.random.key(0), xs, lengths)["params"]
  ys = model.apply({"params": params}, xs, lengths)
  read = xs
  if embedding:
    read = xs @ params["embedding"]["kernel"] + params["embedding"]["bias"]
  _, hs = unroll(cell, params["encoder"]["forward"], jnp.asarray(read), lengths)
  last = params["outputs"]
  np.testing.assert_allclose(ys, hs @ last["kernel"] + last["bias"], rtol=1e-5, atol=1e-6)
  dropped = model.apply({"params": params}, xs, lengths, key=jax.random.key(1))
  assert np.abs(dropped - ys).max() > 0.1


def test_training_and_evaluation_losses():
  """The one function in training, the other in use; both see the whole batch."""
  model = SequenceLabeler(forward(gru(4)), 1)
  batch = {"tokens": np.ones((3, 2, 1), np.float32), "lengths": np.array([3, 1]), "more": 5.0}
  square = lambda ys, batch: metrics.weighted_mean(
    ys[..., 0] ** 2, padding_mask(ys, batch["lengths"])
  )
  task = tasks.supervised_task(
    model,
    lambda ys, batch: {"loss": square(ys, batch)},
    lambda ys, batch: {"loss": metrics.Mean(batch["more"] * square(ys, batch).total, 1.0)},
  )
  params = task.init(jax.random.key(0), batch)
  ys = np.asarray(model.apply({"params": params}, batch["tokens"], batch["lengths"]))[..., 0]
  total = (ys[:, 0] ** 2).sum() + ys[0, 1] ** 2
  _, measured = task.score(params, (), batch)
  _, learnt = task.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(measured["loss"].value, total / 4, rtol=1e-5)
  np.testing.assert_allclose(learnt["loss"].value, 5 * total, rtol=1e-5)

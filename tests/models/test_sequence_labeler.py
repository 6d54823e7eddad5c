"""Sequence labeler: batches of vector sequences, outputs, and losses."""

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
  """Every sequence is in a batch, unchanged and padded with 0."""
  draw = np.random.default_rng(0)
  sequences = [draw.normal(size=(n, 3)) for n in (5, 2, 9, 4, 1)]
  batched = {}
  for batch in BucketedBatches(sequences, range(5), 2):
    assert batch["tokens"].dtype == np.float32
    for b in np.flatnonzero(batch["weights"]):
      n = batch["lengths"][b]
      batched[int(batch["labels"][b])] = batch["tokens"][:n, b]
      assert not batch["tokens"][n:, b].any()
  for i, sequence in enumerate(sequences):
    np.testing.assert_array_equal(batched[i], sequence.astype(np.float32))


@pytest.mark.parametrize("embedding", [None, nn.Dense(5)], ids=["bare", "embedded"])
def test_outputs_equal_reference(embedding):
  cell = gru(4)
  model = SequenceLabeler(forward(cell), 2, embedding, input_dropout=0.9, output_dropout=0.9)
  draw = np.random.default_rng(1)
  xs, lengths = draw.normal(size=(6, 3, 7)).astype(np.float32), np.array([6, 2, 0])
  params = model.init(jax.random.key(0), xs, lengths)["params"]
  ys = model.apply({"params": params}, xs, lengths)
  inputs = xs
  if embedding:
    inputs = xs @ params["embedding"]["kernel"] + params["embedding"]["bias"]
  _, hs = unroll(cell, params["encoder"]["forward"], jnp.asarray(inputs), lengths)
  expected = hs @ params["outputs"]["kernel"] + params["outputs"]["bias"]
  np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)
  dropped = model.apply({"params": params}, xs, lengths, key=jax.random.key(1))
  assert np.abs(dropped - ys).max() > 0.1


def test_training_and_evaluation_losses():
  """Training uses the first loss function, evaluation the second; both get the whole batch."""
  model = SequenceLabeler(forward(gru(4)), 1)
  batch = {"tokens": np.ones((3, 2, 1), np.float32), "lengths": np.array([3, 1]), "scale": 5.0}
  mean_square = lambda ys, batch: metrics.weighted_mean(
    ys[..., 0] ** 2, padding_mask(ys, batch["lengths"])
  )
  task = tasks.supervised_task(
    model,
    lambda ys, batch: {"loss": mean_square(ys, batch)},
    lambda ys, batch: {"loss": metrics.Mean(batch["scale"] * mean_square(ys, batch).total, 1.0)},
  )
  params = task.init(jax.random.key(0), batch)
  ys = np.asarray(model.apply({"params": params}, batch["tokens"], batch["lengths"]))[..., 0]
  total = (ys[:, 0] ** 2).sum() + ys[0, 1] ** 2
  _, evaluated = task.score(params, (), batch)
  _, trained = task.loss(params, (), batch, jax.random.key(0))
  np.testing.assert_allclose(evaluated["loss"].value, total / 4, rtol=1e-5)
  np.testing.assert_allclose(trained["loss"].value, 5 * total, rtol=1e-5)

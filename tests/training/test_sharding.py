"""Training on several devices: every partitioning gives the steps of one device."""

import itertools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from rnnjax import bidirectional, forward, gru, lstm, stack, training
from rnnjax.data.bptt_batches import BpttBatches
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.models import embedding
from rnnjax.models.classifier import Classifier
from rnnjax.models.language_model import LanguageModel
from rnnjax.output_layers import full_softmax
from rnnjax.training import device_mesh, sharding, tasks
from rnnjax.types import InvalidInputError

DRAW = np.random.default_rng(0)
ROWS = [DRAW.integers(2, 9, size) for size in (3, 8, 1, 12, 16, 9, 0, 5)]
OPTIMIZER = optax.sgd(0.2, momentum=0.9)  # Adam would amplify rounding errors of zero gradients
ENCODER = stack(bidirectional(lstm(4), lstm(4)))
LANGUAGE = LanguageModel(
  embedding.trainable_embedding(8, 4), stack(forward(gru(4))), full_softmax(8), False, None
)
CASES = {
  "labels": (
    tasks.classification_task(Classifier(nn.Embed(9, 4), ENCODER, 3)),
    BucketedBatches(
      ROWS, [0, 1, 2, 0, 1, 2, 0, 1], batch_size=8, max_length=16, max_buckets=1, seed=0
    ),
  ),
  "text": (
    tasks.language_modeling_task(LANGUAGE),
    BpttBatches(DRAW.integers(0, 8, 200), 8, 5, seed=0),
  ),
}  # the second task passes a carry from batch to batch


def run_train_steps(case, mesh_spec, accumulate=1, num_steps=4, **options):
  """Return the loss of each step, and its parameters, average and carry."""
  task, batches = CASES[case]
  mesh = device_mesh.make_mesh(8, mesh_spec)
  task = sharding.with_shard_map(task, mesh) if mesh_spec.startswith("shard_map") else task
  first = training.init_state(task, OPTIMIZER, next(batches.stream()), jax.random.key(0), True)
  stream = itertools.islice(batches.stream(), num_steps)
  steps = training.train_loop(
    task, OPTIMIZER, first, stream, mesh=mesh, grad_accum_steps=accumulate, **options
  )
  return [
    (m["loss"].value, jax.device_get((s.params, s.averaged_params, s.carry))) for s, m in steps
  ]


@pytest.fixture(scope="module")
def single_device_steps():
  return {case: run_train_steps(case, "batch:1") for case in CASES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
  "text",
  [
    "batch:1",
    "batch:4",
    "batch:2,fsdp:2",
    "fsdp",
    "explicit/batch:4",
    "explicit/batch:2,fsdp:2",
    "shard_map/batch:4",
    "shard_map/fsdp:2,batch",
  ],
)
def test_sharded_step_equals_single_device(single_device_steps, case, text, accumulate):
  """Losses, parameters, averages and carries agree at every step, up to float32 rounding."""
  for a, b in zip(
    jax.tree.leaves(run_train_steps(case, text, accumulate)),
    jax.tree.leaves(single_device_steps[case]),
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_fsdp_shards_matrices():
  """Each of four devices holds a quarter of each matrix, its moments and its average."""
  task, batches = CASES["labels"]
  first = training.init_state(task, OPTIMIZER, next(batches.stream()), jax.random.key(0), True)
  mesh = device_mesh.make_mesh(8, "fsdp:4")
  state, _ = next(training.train_loop(task, OPTIMIZER, first, batches.stream(), mesh=mesh))
  held = lambda tree: sum(a.addressable_shards[0].data.size for a in jax.tree.leaves(tree))
  whole = lambda tree: sum(a.size for a in jax.tree.leaves(tree) if a.ndim < 2)
  cut = lambda tree: sum(a.size for a in jax.tree.leaves(tree) if a.ndim > 1)
  for tree in (state.params, state.averaged_params, state.opt_state):
    assert cut(tree) and held(tree) == whole(tree) + cut(tree) // 4


@pytest.mark.parametrize("text", ["batch:2,fsdp:2", "explicit/batch:2,fsdp:2", "shard_map/batch:4"])
def test_bfloat16_training_keeps_float32_params(single_device_steps, text):
  """Parameters and their average stay float32; losses differ by at most bfloat16 rounding."""
  for case in CASES:
    steps = run_train_steps(case, text, dtype="bfloat16")
    params = steps[-1][1][0]
    assert all(p.dtype == np.float32 for p in jax.tree.leaves(params))
    losses = np.array([loss for loss, _ in steps])
    float32_losses = np.array([loss for loss, _ in single_device_steps[case]])
    assert (losses != float32_losses).any()
    np.testing.assert_allclose(losses, float32_losses, rtol=2**-7)


@pytest.mark.parametrize(
  "text, message",
  [
    ("rows:4", "a mesh must look like"),
    ("batch:0", "a mesh must look like"),
    ("batch:", "a mesh must look like"),
    ("batch,fsdp", "a mesh must look like"),
    ("batch:2,batch:2", "a mesh must look like"),
    ("gspmd/batch:4", "auto/, explicit/, shard_map/"),
    ("batch:-1", "a mesh must look like"),
    ("batch:8", "needs 8 devices; there are 4"),
    ("batch,fsdp:8", "needs 8 devices"),
    ("batch:3", "does not divide evenly among 3"),
  ],
)
def test_invalid_mesh_raises(text, message):
  with pytest.raises(InvalidInputError, match=message):
    device_mesh.make_mesh(8, text)


@pytest.mark.parametrize("batches", [case[1] for case in CASES.values()], ids=CASES)
def test_host_shards_make_up_whole_batch(batches):
  """The rows that two hosts read make up each whole batch."""
  shares = [batches.select_rows(rows) for rows in ([0, 3], [1, 2, 4, 5, 6, 7])]
  place = np.argsort([0, 3, 1, 2, 4, 5, 6, 7])
  parts = zip(batches.stream(), *(one.stream() for one in shares))
  for whole, *some in itertools.islice(parts, 30):
    for name in whole:
      joined = np.concatenate([one[name] for one in some], min(whole[name].ndim - 1, 1))
      np.testing.assert_array_equal(joined[..., place], whole[name])

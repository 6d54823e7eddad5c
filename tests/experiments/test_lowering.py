"""The train step of every experiment lowers for CUDA and TPU, in float32 and bfloat16."""

import dataclasses

import jax
import pytest

from experiments.common import commands
from rnnjax.training import sharding, trainer
from rnnjax.training.train_step import StepOptions, _train_step

TINY = {"hidden_size": 4, "batch_size": 4, "dataset": "embedded", "epochs": 1}
# These run other experiments and compare their results: their steps are those of the others.
COMPARISONS = {"bottleneck", "directions", "word_order"}
NAMES = [name for name in commands.training_commands() if name not in COMPARISONS]


class StepLowered(Exception):
  """Raised instead of training, once the step has been lowered."""


def lower_train_step(self):
  """Replacement of `Trainer.train` that lowers the step for the first batch."""
  batch = next(self.data.train.stream())
  options = StepOptions(self.task, self.optimizer, self.averaging, dtype=self.dtype)
  with jax.set_mesh(self.mesh):
    batch = sharding.shard_batch(self.mesh, batch)
    traced = _train_step.trace(options, self.state.train_state, batch)
  state, metrics, _ = traced.out_info
  outputs = [*jax.tree.leaves(state.params), metrics["loss"].total]
  assert {a.dtype.name for a in outputs} == {"float32"}
  text = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
  assert ("bf16" in text) == (self.dtype == "bfloat16")
  raise StepLowered


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_train_step_lowers_for_cuda_and_tpu(name, dtype, monkeypatch):
  monkeypatch.setattr(trainer.Trainer, "train", lower_train_step)
  module = commands.load_command(name)
  fields = {field.name for field in dataclasses.fields(module.Config)}
  tiny = {name: value for name, value in TINY.items() if name in fields}
  with pytest.raises(StepLowered):
    module.run(module.Config(**tiny, dtype=dtype))


def test_all_training_experiments_are_lowered():
  assert {"imdb", "word_lm", "translate", "memory", "speech"} <= set(NAMES)
  assert set(commands.training_commands()) >= COMPARISONS

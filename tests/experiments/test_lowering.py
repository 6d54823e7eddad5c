"""Every experiment's train step, on its embedded data, lowers for CUDA and TPU, in bf16 too."""

import dataclasses
import importlib

import jax
import pytest

from rnnjax.training import trainer as running
from rnnjax.training.train_step import StepOptions, _train_step

TINY = dict(hidden=4, batch=4, dataset="embedded", epochs=1)
NAMES = """
  imdb tagging char_lm word_lm translate summarize pronounce forecast music speech digits caption
  reading video lips memory
""".split()


class StepLowered(Exception):
  """The step was lowered: there is no more to do."""


def lower_train_step(self):
  """Instead of training: lowers the step of the first batch."""
  batch = next(self.data.train.stream())
  how = StepOptions(self.task, self.optimizer, self.averaging, dtype=self.dtype)
  with jax.set_mesh(self.mesh):
    batch = running.placement.shard(self.mesh, batch)
    traced = _train_step.trace(how, self.state.train_state, batch)
  state, metrics, _ = traced.out_info
  kept = [*jax.tree.leaves(state.params), metrics["loss"].total]
  assert {a.dtype.name for a in kept} == {"float32"}
  text = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
  assert ("bf16" in text) == (self.dtype == "bfloat16")
  raise StepLowered


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_train_step_lowers_for_cuda_and_tpu(name, precision, monkeypatch):
  monkeypatch.setattr(running.Trainer, "train", lower_train_step)
  module = importlib.import_module(f"experiments.{name}")
  fields = {field.name for field in dataclasses.fields(module.Config)}
  tiny = {name: value for name, value in TINY.items() if name in fields}
  with pytest.raises(StepLowered):
    module.run(module.Config(**tiny, precision=precision))

"""Every experiment's train step, on its embedded data, lowers for CUDA and TPU, in bf16 too."""

import dataclasses
import importlib

import jax
import pytest

from rnnjax.training import trainer as running
from rnnjax.training.train_step import How, _update

TINY = dict(hidden=4, batch=4, dataset="embedded", epochs=1)
NAMES = """
  imdb tagging char_lm word_lm translate summarize pronounce forecast music speech digits caption
  reading video lips memory
""".split()


class Lowered(Exception):
  """The step was lowered: there is no more to do."""


def lower(self):
  """Instead of training: lowers the step of the first batch."""
  batch = next(self.data.train.stream())
  how = How(self.task, self.optimizer, self.average, precision=self.precision)
  with jax.set_mesh(self.mesh):
    batch = running.placement.shard(self.mesh, batch)
    traced = _update.trace(how, self.progress.state, batch)
  state, metrics, _ = traced.out_info
  kept = [*jax.tree.leaves(state.params), metrics["loss"].total]
  assert {a.dtype.name for a in kept} == {"float32"}
  text = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
  assert ("bf16" in text) == (self.precision == "bfloat16")
  raise Lowered


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers(name, precision, monkeypatch):
  monkeypatch.setattr(running.Run, "train", lower)
  module = importlib.import_module(f"experiments.{name}")
  fields = {field.name for field in dataclasses.fields(module.Config)}
  tiny = {name: value for name, value in TINY.items() if name in fields}
  with pytest.raises(Lowered):
    module.run(module.Config(**tiny, precision=precision))

"""Tests of the benchmark on tiny loops."""

import json

import jax
import numpy as np
import pytest

from experiments import benchmark
from experiments.benchmarks import peers, timing
from rnnjax.types import InvalidInputError


def test_rows_for_every_peer_on_one_and_all_devices(tmp_path):
  """GFLOP/s follow the formula; ratios are relative to the fastest row of rnnjax."""
  B, T, D, H = 4, 3, 2, 5
  config = benchmark.Config(
    shapes=f"{B},{T},{D},{H}", cell="lstm", num_trials=1, workdir=str(tmp_path)
  )
  result = benchmark.run(config)
  rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
  flops = 3 * 2 * (D + H) * 4 * H * B * T
  assert all(row["gflops"] * row["both_ms"] == pytest.approx(flops / 1e6) for row in rows)
  counts = [(row["peer"], row["devices"]) for row in rows if row["peer"] in ("rnnjax", "flax")]
  assert sorted(counts) == [("flax", 1), ("flax", 4), ("rnnjax", 1), ("rnnjax", 4)]
  fastest = {
    name: min(row["both_ms"] for row in rows if row["peer"] == name) for name in ("rnnjax", "flax")
  }
  expected = fastest["flax"] / fastest["rnnjax"]
  assert result["time/rnnjax"]["flax"] == pytest.approx(expected, abs=1e-3)
  assert result["time/rnnjax"]["rnnjax"] == 1


@pytest.mark.parametrize("shapes", ["", "1,2,3", "4,3,2,5 a,b,c,d", "4,3,0,5"])
def test_invalid_shapes_raise(shapes):
  """The error is raised before anything is measured."""
  with pytest.raises(InvalidInputError, match="positive B,T,D,H"):
    benchmark.run(benchmark.Config(shapes=shapes))


def test_timed_functions_alternate_in_random_order():
  """Each function runs once in a trial, in an order that differs between trials."""
  order = []
  runs = {name: lambda name=name: order.append(name) for name in "abc"}
  timing.median_seconds(runs, num_trials=8)
  rounds = ["".join(order[i : i + 3]) for i in range(0, 30, 3)]
  assert all(sorted(letters) == ["a", "b", "c"] for letters in rounds)
  assert len(set(rounds)) > 2


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_custom_cells_equal_library_cells(cell):
  """A user's additive cell, and a cell of which only the step is known, equal the library's."""
  xs = jax.random.normal(jax.random.key(1), (7, 2, 3))
  apply_fn, params = peers.JAX_IMPLEMENTATIONS["rnnjax"](cell, xs, 4)
  for name in ("own cell", "own step"):
    other_fn, _ = peers.JAX_IMPLEMENTATIONS[name](cell, xs, 4)
    np.testing.assert_allclose(other_fn(params, xs), apply_fn(params, xs), rtol=0, atol=1e-6)

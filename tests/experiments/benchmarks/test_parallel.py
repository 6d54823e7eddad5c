"""Tests of the comparison of Newton's method with the loop, on tiny loops."""

import json

import numpy as np
import pytest

from experiments import parallel
from rnnjax.types import InvalidInputError


def test_table_rows_and_geometric_mean_gains(tmp_path):
  """The table has a row for each loop whose Jacobians fit; means of speedups are geometric."""
  sizes = dict(cells="gru,lstm", lengths="3,6", hidden_sizes="2", batch_sizes="1,2", num_trials=1)
  result = parallel.run(parallel.Config(**sizes, max_jacobian_gib=3e-7, workdir=str(tmp_path)))
  rows = json.loads((tmp_path / "parallel.json").read_text())["rows"]
  # The limit is 322 bytes, the Jacobians take 4·T·B·n². n is 2 for the GRU and 4 for the LSTM, of
  # which only 3 steps of one row fit.
  assert [(r["cell"], r["T"], r["B"]) for r in rows] == [
    ("gru", 3, 1),
    ("gru", 3, 2),
    ("gru", 6, 1),
    ("gru", 6, 2),
    ("lstm", 3, 1),
  ]
  gains = [min(r["scan both"], r["deferred both"]) / r["full both"] for r in rows]
  mean = np.prod(gains) ** (1 / len(rows))
  assert result["gain/full both"] == pytest.approx(mean, abs=1e-3)
  assert all(r["full converged"] and 0 < r["full iterations"] <= r["T"] for r in rows)
  assert (tmp_path / "parallel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(lengths="10,x"), "--lengths must be positive numbers"),
    (dict(hidden_sizes="0"), "--hidden_sizes must be positive numbers"),
    (dict(cells="gru,rnn"), "--cells must be some of vanilla,lstm,gru"),
    (dict(max_jacobian_gib=0.0), "too little for any"),
  ],
)
def test_invalid_sizes_raise(options, message):
  with pytest.raises(InvalidInputError, match=message):
    parallel.run(parallel.Config(**options))

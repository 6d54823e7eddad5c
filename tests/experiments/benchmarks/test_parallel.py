"""The curve of Newton's gain on tiny loops: what a gain is, and that the table holds them all."""

import json

import numpy as np
import pytest

from experiments import parallel
from rnnjax.types import InvalidInputError


def test_table_rows_and_geometric_mean_gains(tmp_path):
  """A row for each loop that fits the memory; gains are over the faster loop, means geometric."""
  sizes = dict(cells="gru,lstm", lengths="3,6", hidden_sizes="2", batch_sizes="1,2", num_trials=1)
  result = parallel.run(parallel.Config(**sizes, max_jacobian_gib=3e-7, workdir=str(tmp_path)))
  rows = json.loads((tmp_path / "parallel.json").read_text())["rows"]
  # 4·T·B·n² bytes of 322: a GRU's n is 2, an LSTM's 4, of which 3 steps of one row fit.
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
  assert all(r["full found"] and 0 < r["full iterations"] <= r["T"] for r in rows)
  assert (tmp_path / "parallel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  "wrong, words",
  [
    (dict(lengths="10,x"), "--lengths must be positive numbers"),
    (dict(hidden_sizes="0"), "--hidden_sizes must be positive numbers"),
    (dict(cells="gru,rnn"), "--cells must be some of vanilla,lstm,gru"),
    (dict(max_jacobian_gib=0.0), "too little for any"),
  ],
)
def test_invalid_sizes_raise(wrong, words):
  with pytest.raises(InvalidInputError, match=words):
    parallel.run(parallel.Config(**wrong))

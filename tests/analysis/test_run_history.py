"""History of a run: reading metrics.jsonl and plotting it."""

import pytest
from matplotlib.image import imread

from rnnjax.analysis import run_history
from rnnjax.types import InvalidInputError


def test_metric_history_and_plot(tmp_path):
  """Metrics are read with the steps of their records; a plot has one panel for each metric."""
  rows = ['{"step": 5, "train/loss": 2.0}', '{"step": 9, "train/loss": 1.0, "valid/loss": 3.0}']
  rows.append('{"step": 9, "train/gradient/W": 0.1}')
  (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
  history = run_history.read_history(str(tmp_path))
  assert history["train/loss"] == ([5, 9], [2.0, 1.0])
  assert history["valid/loss"] == ([9], [3.0])
  one_panel, two_panels = tmp_path / "one.png", tmp_path / "two.png"
  run_history.plot_history(
    one_panel, {name: line for name, line in history.items() if "W" not in name}
  )
  run_history.plot_history(two_panels, history)
  assert imread(two_panels).shape[1] == pytest.approx(2 * imread(one_panel).shape[1], abs=2)
  with pytest.raises(
    InvalidInputError, match=r"must be the --workdir of a run; it has no metrics\.jsonl"
  ):
    run_history.read_history(str(tmp_path / "none"))

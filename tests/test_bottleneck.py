"""What attention removes: sentences by their length, and what each of both runs is told."""

import json
import math
import pathlib

import pytest
from matplotlib.image import imread

from experiments import bottleneck, translate
from experiments.seq2seq import seq2seq_common


@pytest.fixture
def told(monkeypatch, tmp_path):
  """Instead of training: with attention all is right, without it half the words are; the flags."""
  flags, words = {}, [f"word{n}" for n in range(30)]

  def run(config):
    flags[pathlib.Path(config.out).name] = config
    seq2seq_common.build(config, 5, 5)  # flags that do not fit each other are refused
    rows = [" ".join(words[:n]) for n in (5, 6, 18)]
    cut = lambda row: row if config.attention != "none" else row[: len(row) // 2]
    made = [dict(source=row, target=row, written=cut(row)) for row in rows]
    place = pathlib.Path(config.out)
    place.mkdir(parents=True)
    (place / "written.jsonl").write_text("\n".join(map(json.dumps, made)))

  monkeypatch.setattr(translate, "run", run)
  return flags


def test_groups_by_length(told, tmp_path):
  """BLEU of all and of the long; where there is no such sentence, no number."""
  scores = bottleneck.run(bottleneck.Config(out=str(tmp_path)))
  assert scores["attention/bleu"] == scores["attention/long_bleu"] == pytest.approx(100)
  assert 0 < scores["one vector/long_bleu"] < 60
  assert math.isnan(bottleneck.bleu([], lower=False))
  assert imread(tmp_path / "bottleneck.png").shape[2] == 4


@pytest.mark.parametrize(
  "flags", [dict(attention="coverage", feed=True, coverage=1.0), dict(copy=True, joint=True)]
)
def test_the_second_run_has_nothing_of_attention(told, tmp_path, flags):
  """It is not refused when the first has been trained."""
  bottleneck.run(bottleneck.Config(out=str(tmp_path), seed=3, **flags))
  first, second = told["attention"], told["one_vector"]
  assert all(getattr(first, name) == value for name, value in flags.items())
  assert (second.attention, second.feed, second.copy) == ("none", False, False)
  assert first.seed == second.seed == 3

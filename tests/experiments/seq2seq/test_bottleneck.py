"""What attention removes: sentences by their length, and what each of both runs is told."""

import json
import math
import pathlib

import pytest
from matplotlib.image import imread

from experiments import bottleneck, translate
from experiments.seq2seq import seq2seq_common


@pytest.fixture
def fake_training(monkeypatch, tmp_path):
  """Instead of training: with attention all is right, without it half the words are; the flags."""
  flags, words = {}, [f"word{n}" for n in range(30)]

  def run(config):
    flags[pathlib.Path(config.workdir).name] = config
    seq2seq_common.build(config, 5, 5)  # flags that do not fit each other are refused
    rows = [" ".join(words[:n]) for n in (5, 6, 18)]
    cut = lambda row: row if config.attention != "none" else row[: len(row) // 2]
    made = [dict(source_language=row, target_language=row, written=cut(row)) for row in rows]
    place = pathlib.Path(config.workdir)
    place.mkdir(parents=True)
    (place / "written.jsonl").write_text("\n".join(map(json.dumps, made)))

  monkeypatch.setattr(translate, "run", run)
  return flags


def test_bleu_by_sentence_length(fake_training, tmp_path):
  """BLEU of all and of the long; where there is no such sentence, no number."""
  scores = bottleneck.run(bottleneck.Config(workdir=str(tmp_path)))
  assert scores["attention/bleu"] == scores["attention/long_bleu"] == pytest.approx(100)
  assert 0 < scores["one vector/long_bleu"] < 60
  assert math.isnan(bottleneck.bleu([], lowercase=False))
  assert imread(tmp_path / "bottleneck.png").shape[2] == 4


@pytest.mark.parametrize(
  "flags",
  [
    dict(attention="coverage", input_feeding=True, coverage_weight=1.0),
    dict(copy_attention=True, shared_vocab=True),
  ],
)
def test_second_run_drops_attention_flags(fake_training, tmp_path, flags):
  """It is not refused when the first has been trained."""
  bottleneck.run(bottleneck.Config(workdir=str(tmp_path), seed=3, **flags))
  first, second = fake_training["attention"], fake_training["one_vector"]
  assert all(getattr(first, name) == value for name, value in flags.items())
  assert (second.attention, second.feed, second.copy) == ("none", False, False)
  assert first.seed == second.seed == 3

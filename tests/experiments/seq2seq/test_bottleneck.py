"""The bottleneck experiment: BLEU by sentence length, and the flags of its two runs."""

import json
import math
import pathlib

import pytest
from matplotlib.image import imread

from experiments import bottleneck, translate
from experiments.seq2seq import seq2seq_common
from rnnjax.types import InvalidInputError


@pytest.fixture
def fake_training(monkeypatch, tmp_path):
  """Replace translate.run; with attention all words are right, without it the first half.

  Returns {name of the run: its Config}.
  """
  configs, words = {}, [f"word{n}" for n in range(30)]

  def run(config):
    configs[pathlib.Path(config.workdir).name] = config
    seq2seq_common.build(config, 5, 5)  # raises if the flags contradict each other
    rows = []
    for sentence in (" ".join(words[:n]) for n in (5, 6, 18)):
      prediction = sentence if config.attention != "none" else sentence[: len(sentence) // 2]
      rows.append(dict(source=sentence, target=sentence, written=prediction))
    workdir = pathlib.Path(config.workdir)
    workdir.mkdir(parents=True)
    (workdir / "written.jsonl").write_text("\n".join(map(json.dumps, rows)))

  monkeypatch.setattr(translate, "run", run)
  return configs


def test_bleu_by_sentence_length(fake_training, tmp_path):
  """BLEU is computed over all and over long sentences, and is NaN for an empty group."""
  scores = bottleneck.run(bottleneck.Config(workdir=str(tmp_path)))
  assert scores["attention/bleu"] == scores["attention/long_bleu"] == pytest.approx(100)
  assert 0 < scores["one vector/long_bleu"] < 60
  assert math.isnan(bottleneck.bleu([], lowercase=False))
  assert imread(tmp_path / "bottleneck.png").shape[2] == 4


@pytest.mark.parametrize(
  "flags",
  [
    dict(attention="coverage", input_feeding=True, coverage_weight=1.0, coverage_penalty=1.0),
    dict(copy_attention=True, shared_vocab=True),
  ],
)
def test_second_run_drops_attention_flags(fake_training, tmp_path, flags):
  """Otherwise the second run would fail after the first has been trained."""
  bottleneck.run(bottleneck.Config(workdir=str(tmp_path), seed=3, **flags))
  first, second = fake_training["attention"], fake_training["one_vector"]
  assert all(getattr(first, name) == value for name, value in flags.items())
  assert (second.attention, second.input_feeding, second.copy_attention) == ("none", False, False)
  assert first.seed == second.seed == 3


@pytest.mark.parametrize("flags", [dict(predict="a"), dict(ensemble="runs/a")], ids=str)
def test_inference_flags_raise(fake_training, flags):
  with pytest.raises(InvalidInputError, match="--predict and --ensemble must be empty"):
    bottleneck.run(bottleneck.Config(**flags))
  assert not fake_training

"""A sentence in another language: encoder, attention, decoder, beam.

python -m experiments.translate                                # a generated pair of languages
python -m experiments.translate --preset=multi30k --data_dir=multi30k --out=runs/ende
    # Multi30k, 2 CPU cores, 18 min: BLEU 37.6
python -m experiments.translate --load=runs/ende --translate="Two dogs play in the snow."
"""

import dataclasses
import time

from experiments.common import cli
from experiments.common.train_config import option
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Rewriter

PRESETS = {
  "multi30k": dict(
    hidden=256,
    width=256,
    vocabulary=6000,
    batch=64,
    epochs=10,
    rate=2e-3,
    dropout=0.4,
    word_dropout=0.1,
    smoothing=0.1,
    average=0.998,
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Rewriting):
  source: str = option("en", "language of the source, as the ending of its files")
  target: str = option("de", "language of the target")
  translate: str = option("", "a sentence to translate", aside=True)


def load(out: str) -> Rewriter:
  """The translator of a run's --out: load("runs/ende")(["Two dogs play in the snow."])."""
  return seq2seq_common.load(out, Config)


def judge(config: Config, rewriter: Rewriter, rows) -> dict:
  """BLEU of the translations of rows, with its signature, and how long they took."""
  sources, references = map(list, zip(*rows))
  rewriter(sources, **config.search)  # compiles
  begun = time.perf_counter()
  written = rewriter(sources, **config.search)
  seconds = time.perf_counter() - begun
  score, signature = seq2seq_common.bleu(written, [[one] for one in references], config.lower)
  seq2seq_common.keep(config.out, rows, written)
  return {"test/bleu": score, "signature": signature, "search_seconds": seconds}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.asked(config, "translate"):
    return seq2seq_common.show(config, load(config.load), config.translate)
  text = pairs_data.load(
    config.dataset, config.data_dir, config.source, config.target, "translations"
  )
  rewriter, scores = seq2seq_common.rewriter(config, text)
  scores |= judge(config, rewriter, text.test)
  return scores | seq2seq_common.show(config, rewriter, config.translate or text.test[0][0])


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

"""A sentence in another language: encoder, attention, decoder, beam.

python -m experiments.translate                                # a generated pair of languages
python -m experiments.translate --preset=multi30k --data_dir=multi30k --out=runs/ende
    # Multi30k, 2 CPU cores, 18 min: BLEU 37.6
python -m experiments.translate --load=runs/ende --translate="Two dogs play in the snow."
"""

import dataclasses
import time

from experiments import command, rewriting
from experiments.options import option
from rnnjax.data import pairs
from rnnjax.models.rewriter import Rewriter

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
class Config(rewriting.Rewriting):
  source: str = option("en", "language of the source, as the ending of its files")
  target: str = option("de", "language of the target")
  translate: str = option("", "a sentence to translate", aside=True)


def load(out: str) -> Rewriter:
  """The translator of a run's --out: load("runs/ende")(["Two dogs play in the snow."])."""
  return rewriting.load(out, Config)


def judge(config: Config, rewriter: Rewriter, rows) -> dict:
  """BLEU of the translations of rows, with its signature, and how long they took."""
  sources, references = map(list, zip(*rows))
  rewriter(sources, **config.search)  # compiles
  begun = time.perf_counter()
  written = rewriter(sources, **config.search)
  seconds = time.perf_counter() - begun
  score, signature = rewriting.bleu(written, [[one] for one in references], config.lower)
  rewriting.keep(config.out, rows, written)
  return {"test/bleu": score, "signature": signature, "search_seconds": seconds}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if rewriting.asked(config, "translate"):
    return rewriting.show(config, load(config.load), config.translate)
  text = pairs.load(config.dataset, config.data_dir, config.source, config.target, "translations")
  rewriter, scores = rewriting.rewriter(config, text)
  scores |= judge(config, rewriter, text.test)
  return scores | rewriting.show(config, rewriter, config.translate or text.test[0][0])


if __name__ == "__main__":
  command.main(Config, run, PRESETS)

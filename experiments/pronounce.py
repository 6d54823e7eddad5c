"""How is it said? The letters of a word in, its sounds out.

python -m experiments.pronounce                                       # generated words
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --out=runs/said
python -m experiments.pronounce --load=runs/said --word=attention
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --load=runs/a,runs/b
    # what both of these say together, of the test part
"""

import dataclasses

import jiwer

from experiments.common import cli
from experiments.common.train_config import option
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Rewriter

PRESETS = {
  "cmudict": dict(
    hidden=256,
    layers=2,
    width=64,
    batch=64,
    epochs=12,
    rate=1e-3,
    attention="additive",
    dropout=0.15,
    smoothing=0.1,
    average=0.999,
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Rewriting):
  subwords: str = option("character", "what a word is cut into", seq2seq_common.KINDS)
  target_subwords: str = option("word", "what its sounds are cut into", seq2seq_common.KINDS)
  word: str = option("", "a word to pronounce", aside=True)


def load(out: str) -> Rewriter:
  """The speller of a run's --out: load("runs/said")(["attention"])."""
  return seq2seq_common.load(out, Config)


def errors(written, ways) -> dict[str, float]:
  """Shares of words and of their phonemes that are wrong, beside the nearest of the ways to say a
  word."""
  found = [
    min((jiwer.process_words(way, one) for way in own), key=lambda it: it.wer)
    for one, own in zip(written, ways)
  ]
  edits = [it.substitutions + it.deletions + it.insertions for it in found]
  spoken = sum(it.hits + it.substitutions + it.deletions for it in found)
  return {"word_error": sum(map(bool, edits)) / len(edits), "phoneme_error": sum(edits) / spoken}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.asked(config, "word"):
    return seq2seq_common.show(config, load(config.load), config.word)
  text = pairs_data.load(config.dataset, config.data_dir, "", "", "pronunciations")
  rewriter, scores = seq2seq_common.rewriter(
    config, text, "accuracy"
  )  # what is judged: right or wrong
  written = rewriter([word for word, _ in text.test], **config.search, batch=500)
  seq2seq_common.keep(config.out, text.test, written)
  spelt = str.lower if config.lower else str
  ways = [[*map(spelt, text.references.get(word, [way]))] for word, way in text.test]
  scores |= {f"test/{name}": value for name, value in errors(written, ways).items()}
  return scores | seq2seq_common.show(config, rewriter, config.word or text.test[0][0])


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

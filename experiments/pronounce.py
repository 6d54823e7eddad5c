"""How is it said? The letters of a word in, its sounds out.

python -m experiments.pronounce                                       # generated words
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --workdir=runs/said
python -m experiments.pronounce --ensemble=runs/said --predict=attention
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --ensemble=runs/a,runs/b
    # what both of these say together, of the test part
"""

import dataclasses

import jiwer

from experiments.common import cli
from experiments.common.train_config import field_spec
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor

PRESETS = {
  "cmudict": dict(
    hidden_size=256,
    num_layers=2,
    embed_dim=64,
    batch_size=64,
    epochs=12,
    learning_rate=1e-3,
    attention="additive",
    dropout=0.15,
    label_smoothing=0.1,
    ema_decay=0.999,
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Seq2SeqConfig):
  tokenizer: str = field_spec("character", "what a word is cut into", seq2seq_common.MODEL_TYPES)
  target_tokenizer: str = field_spec(
    "word", "what its sounds are cut into", seq2seq_common.MODEL_TYPES
  )
  predict: str = field_spec("", "a word to pronounce", affects_training=False)


def load(workdir: str) -> Seq2SeqPredictor:
  """The speller of a run's --workdir: load("runs/said")(["attention"])."""
  return seq2seq_common.load(workdir, Config)


def error_rates(predictions, pronunciations) -> dict[str, float]:
  """Shares of words and of their phonemes that are wrong, beside the nearest of the ways to say a
  word."""
  found = [
    min((jiwer.process_words(way, one) for way in own), key=lambda it: it.wer)
    for one, own in zip(predictions, pronunciations)
  ]
  edits = [it.substitutions + it.deletions + it.insertions for it in found]
  spoken = sum(it.hits + it.substitutions + it.deletions for it in found)
  return {"word_error": sum(map(bool, edits)) / len(edits), "phoneme_error": sum(edits) / spoken}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.inference_only(config, "word"):
    return seq2seq_common.print_prediction(config, load(config.ensemble), config.predict)
  text = pairs_data.load(config.dataset, config.data_dir, "", "", "pronunciations")
  rewriter, scores = seq2seq_common.load_or_train(
    config, text, "accuracy"
  )  # what is judged: right or wrong
  written = rewriter([word for word, _ in text.test], **config.search_options, batch=500)
  seq2seq_common.write_predictions(config.workdir, text.test, written)
  spelt = str.lower if config.lowercase else str
  ways = [[*map(spelt, text.references.get(word, [way]))] for word, way in text.test]
  scores |= {f"test/{name}": value for name, value in error_rates(written, ways).items()}
  return scores | seq2seq_common.print_prediction(
    config, rewriter, config.predict or text.test[0][0]
  )


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

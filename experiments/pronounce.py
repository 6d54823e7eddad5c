"""Grapheme-to-phoneme conversion: predict the phonemes of a word from its letters.

python -m experiments.pronounce                                       # trains on generated words
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --workdir=runs/said
python -m experiments.pronounce --workdir=runs/said --predict=attention
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --ensemble=runs/a,runs/b
    # tests an ensemble that averages the probabilities of two runs
"""

import dataclasses

import jiwer

from experiments.common import cli
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
  """Configuration of the pronunciation experiment; each field is a command-line flag.

  Source tokens are letters. Target tokens are phonemes.
  """

  tokenizer: str = "character"
  target_tokenizer: str = "word"


def load(workdir: str) -> Seq2SeqPredictor:
  """Load the predictor of a finished run.

  Example: load("runs/said")(["attention"])
  """
  return seq2seq_common.load(workdir, Config)


def error_rates(predictions: list[str], pronunciations: list[list[str]]) -> dict[str, float]:
  """Return the word error rate and the phoneme error rate, as fractions.

  If a word has several correct pronunciations, the pronunciation with the lowest error
  rate is the reference.

  Args:
    predictions: for each word, the predicted phonemes separated by spaces.
    pronunciations: for each word, all correct pronunciations in the same format.
  """
  alignments = [
    min(
      (jiwer.process_words(variant, prediction) for variant in variants),
      key=lambda alignment: alignment.wer,
    )
    for prediction, variants in zip(predictions, pronunciations)
  ]
  edits = [a.substitutions + a.deletions + a.insertions for a in alignments]
  num_phonemes = sum(a.hits + a.substitutions + a.deletions for a in alignments)
  return {
    "word_error": sum(map(bool, edits)) / len(edits),
    "phoneme_error": sum(edits) / num_phonemes,
  }


def run(config: Config = Config()) -> dict:
  """Train a pronunciation model, print an example, and return the validation and test scores.

  The parameters with the best validation accuracy are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model pronounces the word.
  """
  if config.predict:
    return seq2seq_common.predict(config)
  text = pairs_data.load(config.dataset, config.data_dir, "", "", "pronunciations")
  # The test scores are error rates, so the parameters are selected by accuracy instead of loss.
  predictor, scores = seq2seq_common.load_or_train(config, text, "accuracy")
  predictions = predictor([word for word, _ in text.test], **config.search_options, batch_size=500)
  seq2seq_common.write_predictions(config.workdir, text.test, predictions)
  normalize = str.lower if config.lowercase else str
  pronunciations = [
    [*map(normalize, text.references.get(word, [pronunciation]))]
    for word, pronunciation in text.test
  ]
  errors = error_rates(predictions, pronunciations)
  scores |= {f"test/{name}": value for name, value in errors.items()}
  return scores | seq2seq_common.print_prediction(config, predictor, text.test[0][0])


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

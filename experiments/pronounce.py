"""Grapheme-to-phoneme conversion: from the letters of a word to its phonemes.

python -m experiments.pronounce                                       # generated words
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --workdir=runs/said
python -m experiments.pronounce --workdir=runs/said --predict=attention
python -m experiments.pronounce --preset=cmudict --data_dir=cmudict.zip --ensemble=runs/a,runs/b
    # test two runs together: their probabilities are averaged
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
  """Configuration; each field is a flag. Letters are the source tokens, phonemes the target's."""

  tokenizer: str = "character"
  target_tokenizer: str = "word"


def load(workdir: str) -> Seq2SeqPredictor:
  """Return the saved model of a run: load("runs/said")(["attention"])."""
  return seq2seq_common.load(workdir, Config)


def error_rates(predictions: list[str], pronunciations: list[list[str]]) -> dict[str, float]:
  """Return the word error rate and the phoneme error rate, as shares.

  Each prediction is compared with the pronunciation of its word that has the lowest error rate.

  Args:
    predictions: phonemes separated by spaces, one text a word.
    pronunciations: the correct pronunciations of each word.
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
  """Train, select the parameters on the validation set, test once; return the scores."""
  if config.predict:
    return seq2seq_common.predict(config)
  text = pairs_data.load(config.dataset, config.data_dir, "", "", "pronunciations")
  # The test scores count right and wrong outputs, so accuracy selects the parameters, not the loss.
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

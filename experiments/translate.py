"""A sentence in another language: encoder, attention, decoder, beam.

python -m experiments.translate                                # a generated pair of languages
python -m experiments.translate --preset=multi30k --data_dir=multi30k --workdir=runs/ende
    # Multi30k, 2 CPU cores, 18 min: BLEU 37.6
python -m experiments.translate --ensemble=runs/ende --predict="Two dogs play in the snow."
"""

import dataclasses
import time

from experiments.common import cli
from experiments.common.train_config import field_spec
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor

PRESETS = {
  "multi30k": dict(
    hidden_size=256,
    embed_dim=256,
    vocab_size=6000,
    batch_size=64,
    epochs=10,
    learning_rate=2e-3,
    dropout=0.4,
    word_dropout=0.1,
    label_smoothing=0.1,
    ema_decay=0.998,
  ),
}


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Seq2SeqConfig):
  source_language: str = field_spec("en", "language of the source, as the ending of its files")
  target_language: str = field_spec("de", "language of the target")
  predict: str = field_spec("", "a sentence to translate", affects_training=False)


def load(workdir: str) -> Seq2SeqPredictor:
  """The translator of a run's --workdir: load("runs/ende")(["Two dogs play in the snow."])."""
  return seq2seq_common.load(workdir, Config)


def evaluate_bleu(config: Config, predictor: Seq2SeqPredictor, rows) -> dict:
  """BLEU of the translations of rows, with its signature, and how long they took."""
  sources, references = map(list, zip(*rows))
  predictor(sources, **config.search_options)  # compiles
  begun = time.perf_counter()
  written = predictor(sources, **config.search_options)
  seconds = time.perf_counter() - begun
  score, signature = seq2seq_common.corpus_bleu(
    written, [[one] for one in references], config.lowercase
  )
  seq2seq_common.write_predictions(config.workdir, rows, written)
  return {"test/bleu": score, "signature": signature, "search_seconds": seconds}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.inference_only(config, "translate"):
    return seq2seq_common.print_prediction(config, load(config.ensemble), config.predict)
  text = pairs_data.load(
    config.dataset, config.data_dir, config.source_language, config.target_language, "translations"
  )
  rewriter, scores = seq2seq_common.load_or_train(config, text)
  scores |= evaluate_bleu(config, rewriter, text.test)
  return scores | seq2seq_common.print_prediction(
    config, rewriter, config.predict or text.test[0][0]
  )


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

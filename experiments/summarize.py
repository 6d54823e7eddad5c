"""A short text from a long one: attention that can copy.

python -m experiments.summarize                                   # generated reports, headlines
python -m experiments.summarize --preset=titles --data_dir=womens_clothing_reviews.csv.gz
python -m experiments.summarize --preset=titles --ensemble=runs/titles --predict="..."
"""

import dataclasses
import logging
import re
from collections import Counter

from rouge_score import rouge_scorer
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments.common import cli
from experiments.common.train_config import field_spec
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor

PRESETS = {
  "titles": dict(
    hidden_size=128,
    embed_dim=128,
    vocab_size=5000,
    batch_size=32,
    epochs=10,
    learning_rate=2e-3,
    dropout=0.3,
    word_dropout=0.1,
    label_smoothing=0.1,
    ema_decay=0.998,
    no_repeat_ngram_size=2,
    max_length=30,
  ),
}
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
LEAD_LENGTHS = range(1, 16)  # words of a text that may stand for its summary


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Seq2SeqConfig):
  source_column: str = field_spec("Review Text", "column of the texts, where they are a table")
  target_column: str = field_spec("Title", "column of the summaries")
  attention: str = field_spec(
    "additive", "how the decoder sees the source", seq2seq_common.ATTENTIONS
  )
  shared_vocab: bool = field_spec(
    True, "source and target have one vocabulary and one table of vectors"
  )
  copy_attention: bool = field_spec(True, "words of the source can be copied; needs --shared_vocab")
  predict: str = field_spec("", "a text to summarize", affects_training=False)


def load(workdir: str) -> Seq2SeqPredictor:
  """The summarizer of a run's --workdir: load("runs/titles")(["..."], block=2, steps=30)."""
  return seq2seq_common.load(workdir, Config)


def rouge_scores(predictions, rows) -> dict[str, float]:
  """Mean F1 of ROUGE-1, 2 and L, on stems: Lin 2004."""
  if unread := [true for _, true in rows if not re.search("[a-z0-9]", true.lower())]:
    logging.warning(
      "ROUGE reads a-z and 0-9 alone, and %d of %d summaries have none of these: %r",
      len(unread),
      len(rows),
      unread[0],
    )
  scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True)
  scores = [scorer.score(true, one) for one, (_, true) in zip(predictions, rows)]
  return {kind: sum(score[kind].fmeasure for score in scores) / len(rows) for kind in ROUGE_TYPES}


def baseline_scores(text: pairs_data.PairDataset) -> dict[str, float]:
  """ROUGE-L of what needs no net.

  The first k words, k by the validation part; the commonest summary; and that of the text which is
  nearest by TF-IDF, all of the training part.
  """
  lead = lambda rows, k: [" ".join(source.split()[:k]) for source, _ in rows]
  k = max(LEAD_LENGTHS, key=lambda k: rouge_scores(lead(text.valid, k), text.valid)["rougeL"])
  sources, targets = zip(*text.train)
  table = TfidfVectorizer(sublinear_tf=True)
  known = table.fit_transform(sources)
  near = (table.transform([source for source, _ in text.test]) @ known.T).argmax(1)
  written = {
    f"first_{k}_words": lead(text.test, k),
    "commonest": [Counter(targets).most_common(1)[0][0]] * len(text.test),
    "nearest": [targets[i] for i in near.A1],
  }
  return {
    f"{name}/rougeL": rouge_scores(found, text.test)["rougeL"] for name, found in written.items()
  }


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.inference_only(config, "text"):
    return seq2seq_common.print_prediction(config, load(config.ensemble), config.predict)
  text = pairs_data.load(
    config.dataset, config.data_dir, config.source_column, config.target_column, "summaries"
  )
  rewriter, scores = seq2seq_common.load_or_train(config, text)
  written = rewriter([source for source, _ in text.test], **config.search_options)
  seq2seq_common.write_predictions(config.workdir, text.test, written)
  found = {f"test/{kind}": value for kind, value in rouge_scores(written, text.test).items()}
  shown = seq2seq_common.print_prediction(config, rewriter, config.predict or text.test[0][0])
  return scores | found | baseline_scores(text) | shown


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

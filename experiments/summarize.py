"""Summarization of short texts with an attention decoder that can copy source words.

python -m experiments.summarize                                   # trains on generated reports
python -m experiments.summarize --preset=titles --data_dir=womens_clothing_reviews.csv.gz \\
    --workdir=runs/titles
python -m experiments.summarize --preset=titles --workdir=runs/titles --predict="..."
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
LEAD_LENGTHS = range(1, 16)  # candidates for k of the baseline "first k words"


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Seq2SeqConfig):
  """Configuration of the summarization experiment; each field is a command-line flag."""

  source_column: str = field_spec("Review Text", "table column that holds the texts")
  target_column: str = field_spec("Title", "table column that holds the summaries")
  attention: str = "additive"
  shared_vocab: bool = True
  copy_attention: bool = True


def load(workdir: str) -> Seq2SeqPredictor:
  """Load the predictor of a finished run.

  Example: load("runs/titles")(["..."], max_length=30)
  """
  return seq2seq_common.load(workdir, Config)


def rouge_scores(predictions: list[str], rows: pairs_data.TextPairs) -> dict[str, float]:
  """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), with stemming.

  Args:
    predictions: the predicted summary of each row.
    rows: (text, reference summary) pairs.
  """
  unscorable = [summary for _, summary in rows if not re.search("[a-z0-9]", summary.lower())]
  if unscorable:
    logging.warning(
      "ROUGE reads only a-z and 0-9; %d of %d summaries have none of these: %r",
      len(unscorable),
      len(rows),
      unscorable[0],
    )
  scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True)
  scores = [
    scorer.score(summary, prediction) for prediction, (_, summary) in zip(predictions, rows)
  ]
  return {name: sum(score[name].fmeasure for score in scores) / len(rows) for name in ROUGE_TYPES}


def baseline_scores(text: pairs_data.PairDataset) -> dict[str, float]:
  """Return the test ROUGE-L of three baselines that need no neural network.

  "first_k_words": the first k words of the text. k maximizes ROUGE-L on the validation set.
  "commonest": the most frequent summary of the training set.
  "nearest": the summary of the training text with the most similar TF-IDF vector.
  """

  def first_words(rows, k):
    return [" ".join(source.split()[:k]) for source, _ in rows]

  def validation_score(k):
    return rouge_scores(first_words(text.valid, k), text.valid)["rougeL"]

  k = max(LEAD_LENGTHS, key=validation_score)
  sources, summaries = zip(*text.train)
  vectorizer = TfidfVectorizer(sublinear_tf=True)
  train_vectors = vectorizer.fit_transform(sources)
  test_vectors = vectorizer.transform([source for source, _ in text.test])
  nearest = (test_vectors @ train_vectors.T).argmax(1)
  predictions = {
    f"first_{k}_words": first_words(text.test, k),
    "commonest": [Counter(summaries).most_common(1)[0][0]] * len(text.test),
    "nearest": [summaries[i] for i in nearest.A1],
  }
  return {
    f"{name}/rougeL": rouge_scores(texts, text.test)["rougeL"]
    for name, texts in predictions.items()
  }


def run(config: Config = Config()) -> dict:
  """Train a summarization model, print an example, and return the model and baseline scores.

  The parameters with the best validation loss are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model summarizes the text.
  """
  if config.predict:
    return seq2seq_common.predict(config)
  text = pairs_data.load(
    config.dataset, config.data_dir, config.source_column, config.target_column, "summaries"
  )
  predictor, scores = seq2seq_common.load_or_train(config, text)
  summaries = predictor([source for source, _ in text.test], **config.search_options)
  seq2seq_common.write_predictions(config.workdir, text.test, summaries)
  rouge = rouge_scores(summaries, text.test)
  scores |= {f"test/{name}": value for name, value in rouge.items()}
  prediction = seq2seq_common.print_prediction(config, predictor, text.test[0][0])
  return scores | baseline_scores(text) | prediction


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

"""A short text from a long one: attention that can copy.

python -m experiments.summarize                                   # generated reports, headlines
python -m experiments.summarize --preset=titles --data_dir=womens_clothing_reviews.csv.gz
python -m experiments.summarize --preset=titles --load=runs/titles --text="..."
"""

import dataclasses
import logging
import re
from collections import Counter

from rouge_score import rouge_scorer
from sklearn.feature_extraction.text import TfidfVectorizer

from experiments.common import cli
from experiments.common.train_config import option
from experiments.seq2seq import data as pairs_data
from experiments.seq2seq import seq2seq_common
from rnnjax.models.seq2seq_predictor import Rewriter

PRESETS = {
  "titles": dict(
    hidden=128,
    width=128,
    vocabulary=5000,
    batch=32,
    epochs=10,
    rate=2e-3,
    dropout=0.3,
    word_dropout=0.1,
    smoothing=0.1,
    average=0.998,
    block=2,
    longest=30,
  ),
}
KINDS = ("rouge1", "rouge2", "rougeL")
LEADS = range(1, 16)  # words of a text that may stand for its summary


@dataclasses.dataclass(frozen=True)
class Config(seq2seq_common.Rewriting):
  source: str = option("Review Text", "column of the texts, where they are a table")
  target: str = option("Title", "column of the summaries")
  attention: str = option("additive", "how the decoder sees the source", seq2seq_common.ATTENTIONS)
  joint: bool = option(True, "source and target have one vocabulary and one table of vectors")
  copy: bool = option(True, "words of the source can be copied; needs --joint")
  text: str = option("", "a text to summarize", aside=True)


def load(out: str) -> Rewriter:
  """The summarizer of a run's --out: load("runs/titles")(["..."], block=2, steps=30)."""
  return seq2seq_common.load(out, Config)


def rouge(written, rows) -> dict[str, float]:
  """Mean F1 of ROUGE-1, 2 and L, on stems: Lin 2004."""
  if unread := [true for _, true in rows if not re.search("[a-z0-9]", true.lower())]:
    logging.warning(
      "ROUGE reads a-z and 0-9 alone, and %d of %d summaries have none of these: %r",
      len(unread),
      len(rows),
      unread[0],
    )
  scorer = rouge_scorer.RougeScorer(KINDS, use_stemmer=True)
  scores = [scorer.score(true, one) for one, (_, true) in zip(written, rows)]
  return {kind: sum(score[kind].fmeasure for score in scores) / len(rows) for kind in KINDS}


def baselines(text: pairs_data.Pairs) -> dict[str, float]:
  """ROUGE-L of what needs no net.

  The first k words, k by the validation part; the commonest summary; and that of the text which is
  nearest by TF-IDF, all of the training part.
  """
  lead = lambda rows, k: [" ".join(source.split()[:k]) for source, _ in rows]
  k = max(LEADS, key=lambda k: rouge(lead(text.valid, k), text.valid)["rougeL"])
  sources, targets = zip(*text.train)
  table = TfidfVectorizer(sublinear_tf=True)
  known = table.fit_transform(sources)
  near = (table.transform([source for source, _ in text.test]) @ known.T).argmax(1)
  written = {
    f"first_{k}_words": lead(text.test, k),
    "commonest": [Counter(targets).most_common(1)[0][0]] * len(text.test),
    "nearest": [targets[i] for i in near.A1],
  }
  return {f"{name}/rougeL": rouge(found, text.test)["rougeL"] for name, found in written.items()}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if seq2seq_common.asked(config, "text"):
    return seq2seq_common.show(config, load(config.load), config.text)
  text = pairs_data.load(config.dataset, config.data_dir, config.source, config.target, "summaries")
  rewriter, scores = seq2seq_common.rewriter(config, text)
  written = rewriter([source for source, _ in text.test], **config.search)
  seq2seq_common.keep(config.out, text.test, written)
  found = {f"test/{kind}": value for kind, value in rouge(written, text.test).items()}
  shown = seq2seq_common.show(config, rewriter, config.text or text.test[0][0])
  return scores | found | baselines(text) | shown


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

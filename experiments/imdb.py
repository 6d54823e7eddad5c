"""Sentiment of film reviews: many words in, one label out.

python -m experiments.imdb --cell=gru         # IMDB: test 0.924 (3 seeds), 5 min on 2 CPU cores
python -m experiments.imdb --preset=notes     # 213,301 parameters: test 0.892, 3 min
python -m experiments.imdb --preset=pretrained --init_from=RUN  # word_lm --preset=reviews: 0.931
python -m experiments.imdb --data_dir=FILE.csv.gz --text="Review Text" --label=Rating   # stars
"""

import logging
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy as np

from experiments import word_lm
from experiments.common import cli, runner, train_config
from experiments.common.train_config import RATE, option
from experiments.text_classification import data as imdb_data
from experiments.text_classification import pretrained
from experiments.text_classification.ngram_features import Evidence
from experiments.text_classification.ngram_lookup import Tree
from rnnjax.data.bucketed_batches import KEEP, PADDING, Batches
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary, words
from rnnjax.models import embedding
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS
from rnnjax.training import tasks
from rnnjax.types import BadInput

PRESETS = {
  "notes": dict(
    hidden=100,
    bidirectional=False,
    pooling="last",
    evidence=0,
    window=600,
    limit=600,
    epochs=6,
    rate=3e-3,
    word_dropout=0.2,
    embedding_dropout=0.0,
    dropout=0.3,
  ),
  "pretrained": dict(cell="gru", frozen=True),
}
EVIDENCE = "evidence.safetensors"  # the n-grams' file, for the export


@dataclass(frozen=True)
class Config(train_config.Common):
  dataset: str = option("auto", "which reviews; auto looks for IMDB first", imdb_data.DATASETS)
  text: str = option("text", "column of a table's texts; Title,Text: with titles before")
  label: str = option("label", "column of a table's labels")
  rate: float = 2e-3
  epochs: int = 5
  vocabulary: int = option(5000, "padding, unknown and the most frequent words", low=3)
  evidence: int = option(3, "longest n-gram whose log-count ratio is read along; 0 for none", low=0)
  window: int = option(250, "words of a review seen at a time in training", low=1)
  keep: str = option("window", "which part of a longer review is trained on", KEEP)
  limit: int = option(1200, "longer reviews are cut to so many words in evaluation", low=1)
  padding: str = option("back", "zeros in front count as words", PADDING)
  embedding: str = option("trainable", "words as vectors", ("trainable", "onehot"))
  vectors: str = option("", "word vectors from which to start: GloVe's or word2vec's", file=True)
  init_from: str = option("", "--out of a word_lm: its embedding and encoder are the start")
  frozen: bool = option(False, "they are read beside the words, and stay as they are, instead")
  width: int = option(32, "features of the embedding where no vectors are given", low=1)
  bidirectional: bool = option(True, "read in both directions")
  pooling: str = option("max_mean", "how outputs become one vector", POOLINGS)
  word_dropout: float = option(0.4, "rate at which words vanish", **RATE)
  embedding_dropout: float = option(0.2, "rate at which features of the embedding vanish", **RATE)
  dropout: float = option(0.5, "rate between layers and before the last one", **RATE)


def build(
  config: Config, vocabulary: Vocabulary, classes: int, language: word_lm.Config | None = None
) -> Classifier:
  """The model alone; it reads along what such a language model makes of the words, if any."""
  if config.embedding == "onehot":
    embed = embedding.OneHot(len(vocabulary))
  else:
    embed = embedding.begun(vocabulary, config.width, config.vectors)
  context = None
  if language:  # whose encoders do not hang on how many words it has
    read = word_lm.build(language, language.vocabulary)
    context = embedding.context(read, len(vocabulary), config.width)
  return Classifier(
    embed,
    train_config.encoder(config),
    classes,
    config.pooling,
    config.word_dropout,
    config.embedding_dropout,
    config.dropout,
    context,
  )


def prepare(config: Config):
  """The reviews as batches of ids, beside the evidence of their n-grams."""
  reviews = imdb_data.load(config.dataset, config.data_dir, text=config.text, label=config.label)
  parts = {part: getattr(reviews, part) for part in ("train", "valid", "test")}
  logging.info("preparing %d reviews of %s", sum(map(len, parts.values())), reviews.name)
  texts = {part: [words(text) for text, _ in rows] for part, rows in parts.items()}
  labels = {part: [label for _, label in rows] for part, rows in parts.items()}
  vocabulary = Vocabulary.of(texts["train"])
  ids = {part: [vocabulary.encode(text) for text in texts[part]] for part in parts}
  beside, evidence = {part: {} for part in parts}, None
  if config.evidence:
    evidence = Evidence(ids["train"], labels["train"], len(reviews.classes), config.evidence)
    found = {part: evidence(ids[part]) for part in parts} | {"train": evidence.cross_fitted}
    beside = {part: {"features": rows} for part, rows in found.items()}
  every, vocabulary = vocabulary.words, vocabulary.cut(config.vocabulary)

  def batches(part, limit, keep, seed=None):
    known = [np.where(text < len(vocabulary), text, UNKNOWN) for text in ids[part]]
    how = dict(padding=config.padding, seed=seed, beside=beside[part])
    return Batches(known, labels[part], config.batch, limit, keep, **how)

  end = "first" if config.keep == "first" else "last"
  made = {part: batches(part, config.limit, end) for part in ("valid", "test")}
  made["train"] = batches("train", config.window, config.keep, config.seed)
  made |= {"vocabulary": vocabulary, "words": every, "evidence": evidence}
  return SimpleNamespace(**reviews._asdict() | made)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if config.frozen and not config.init_from:
    raise BadInput("--frozen needs a language model: --init_from=RUN, of word_lm")
  language, beside = None, {}
  if config.init_from:
    saved, known = runner.restore(word_lm.Config, config.init_from, "vocabulary", text="")
    if config.frozen:
      language, beside = known, {"language": asdict(known)}
  data = prepare(config)
  task = tasks.classification(build(config, data.vocabulary, len(data.classes), language))
  if config.init_from:
    task = pretrained.begin(task, data.vocabulary, saved.params, saved.beside["vocabulary"])
  beside |= {"words": data.words, "classes": data.classes}
  _, scores = runner.learn(config, task, data, data.name, warmup=0.1, beside=beside)
  if config.out and config.evidence:
    Tree.of(data.evidence).save(runner.place(config.out, EVIDENCE))
  commonest = np.bincount(data.train.labels).argmax()
  return scores | {"test/majority": float(np.mean(np.equal(data.test.labels, commonest)))}


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

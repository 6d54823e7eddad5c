"""Sentiment of film reviews: many words in, one label out.

python -m experiments.imdb --cell=gru         # IMDB: test 0.924 (3 seeds), 5 min on 2 CPU cores
python -m experiments.imdb --preset=notes     # 213,301 parameters: test 0.892, 3 min
python -m experiments.imdb --preset=pretrained --init_from=RUN  # word_lm --preset=reviews: 0.931
python -m experiments.imdb --data_dir=FILE.csv.gz --text_column="Review Text" --label_column=Rating   # stars
"""

import logging
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy as np

from experiments import word_lm
from experiments.common import cli, runner, train_config
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.text_classification import data as imdb_data
from experiments.text_classification import pretrained
from experiments.text_classification.ngram_features import NgramFeatures
from experiments.text_classification.ngram_lookup import NgramTrie
from rnnjax.data.bucketed_batches import PADDINGS, TRUNCATIONS, BucketedBatches
from rnnjax.data.vocabulary import UNKNOWN, Vocabulary, tokenize_lower
from rnnjax.models import embedding
from rnnjax.models.classifier import Classifier
from rnnjax.pooling import POOLINGS
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

PRESETS = {
  "notes": dict(
    hidden_size=100,
    bidirectional=False,
    pooling="last",
    ngram_order=0,
    max_train_length=600,
    max_eval_length=600,
    epochs=6,
    learning_rate=3e-3,
    word_dropout=0.2,
    input_dropout=0.0,
    dropout=0.3,
  ),
  "pretrained": dict(cell="gru", freeze_lm=True),
}
NGRAM_FILE = "evidence.safetensors"  # the n-grams' file, for the export


@dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which reviews; auto looks for IMDB first", imdb_data.DATASETS)
  text_column: str = field_spec("text", "column of a table's texts; Title,Text: with titles before")
  label_column: str = field_spec("label", "column of a table's labels")
  learning_rate: float = 2e-3
  epochs: int = 5
  vocab_size: int = field_spec(5000, "padding, unknown and the most frequent words", min_value=3)
  ngram_order: int = field_spec(
    3, "longest n-gram whose log-count ratio is read along; 0 for none", min_value=0
  )
  max_train_length: int = field_spec(
    250, "words of a review seen at a time in training", min_value=1
  )
  truncation: str = field_spec("window", "which part of a longer review is trained on", TRUNCATIONS)
  max_eval_length: int = field_spec(
    1200, "longer reviews are cut to so many words in evaluation", min_value=1
  )
  padding: str = field_spec("back", "zeros in front count as words", PADDINGS)
  embedding: str = field_spec("trainable", "words as vectors", ("trainable", "onehot"))
  pretrained_embeddings: str = field_spec(
    "", "word vectors from which to start: GloVe's or word2vec's", is_file=True
  )
  init_from: str = field_spec("", "--workdir of a word_lm: its embedding and encoder are the start")
  freeze_lm: bool = field_spec(
    False, "they are read beside the words, and stay as they are, instead"
  )
  embed_dim: int = field_spec(
    32, "features of the embedding where no vectors are given", min_value=1
  )
  bidirectional: bool = field_spec(True, "read in both directions")
  pooling: str = field_spec("max_mean", "how outputs become one vector", POOLINGS)
  word_dropout: float = field_spec(0.4, "rate at which words vanish", **PROBABILITY)
  input_dropout: float = field_spec(
    0.2, "rate at which features of the embedding vanish", **PROBABILITY
  )
  dropout: float = field_spec(0.5, "rate between layers and before the last one", **PROBABILITY)


def build(
  config: Config, vocabulary: Vocabulary, num_classes: int, lm_config: word_lm.Config | None = None
) -> Classifier:
  """The model alone; it reads along what such a language model makes of the words, if any."""
  if config.embedding == "onehot":
    embed = embedding.OneHot(len(vocabulary))
  else:
    embed = embedding.embedding_from_file(
      vocabulary, config.embed_dim, config.pretrained_embeddings
    )
  context = None
  if lm_config:  # whose encoders do not hang on how many words it has
    read = word_lm.build(lm_config, lm_config.vocabulary)
    context = embedding.contextual_embedding(read, len(vocabulary), config.embed_dim)
  return Classifier(
    embed,
    train_config.build_encoder(config),
    num_classes,
    config.pooling,
    config.word_dropout,
    config.input_dropout,
    config.dropout,
    context,
  )


def prepare(config: Config):
  """The reviews as batches of ids, beside the evidence of their n-grams."""
  reviews = imdb_data.load(
    config.dataset,
    config.data_dir,
    text_column=config.text_column,
    label_column=config.label_column,
  )
  parts = {part: getattr(reviews, part) for part in ("train", "valid", "test")}
  logging.info("preparing %d reviews of %s", sum(map(len, parts.values())), reviews.name)
  texts = {part: [tokenize_lower(text) for text, _ in rows] for part, rows in parts.items()}
  labels = {part: [label for _, label in rows] for part, rows in parts.items()}
  vocabulary = Vocabulary.from_texts(texts["train"])
  ids = {part: [vocabulary.encode(text) for text in texts[part]] for part in parts}
  beside, evidence = {part: {} for part in parts}, None
  if config.ngram_order:
    evidence = NgramFeatures(
      ids["train"], labels["train"], len(reviews.classes), config.ngram_order
    )
    found = {part: evidence(ids[part]) for part in parts} | {
      "train": evidence.cross_fitted_features
    }
    beside = {part: {"features": rows} for part, rows in found.items()}
  every, vocabulary = vocabulary.words, vocabulary.truncate(config.vocab_size)

  def batches(part, max_length, truncation, seed=None):
    known = [np.where(text < len(vocabulary), text, UNKNOWN) for text in ids[part]]
    how = dict(padding=config.padding, seed=seed, beside=beside[part])
    return BucketedBatches(known, labels[part], config.batch_size, max_length, truncation, **how)

  end = "first" if config.truncation == "first" else "last"
  made = {part: batches(part, config.max_eval_length, end) for part in ("valid", "test")}
  made["train"] = batches("train", config.max_train_length, config.truncation, config.seed)
  made |= {"vocabulary": vocabulary, "words": every, "evidence": evidence}
  return SimpleNamespace(**reviews._asdict() | made)


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if config.freeze_lm and not config.init_from:
    raise InvalidInputError("--freeze_lm needs a language model: --init_from=RUN, of word_lm")
  language, beside = None, {}
  if config.init_from:
    saved, known = runner.load_run(word_lm.Config, config.init_from, "vocabulary", text="")
    if config.freeze_lm:
      language, beside = known, {"language": asdict(known)}
  data = prepare(config)
  task = tasks.classification_task(build(config, data.vocabulary, len(data.classes), language))
  if config.init_from:
    task = pretrained.with_pretrained_params(
      task, data.vocabulary, saved.params, saved.extras["vocabulary"]
    )
  beside |= {"words": data.words, "classes": data.classes}
  _, scores = runner.train_and_test(config, task, data, data.name, warmup=0.1, beside=beside)
  if config.workdir and config.ngram_order:
    NgramTrie.from_features(data.evidence).save(runner.run_file(config.workdir, NGRAM_FILE))
  commonest = np.bincount(data.train.labels).argmax()
  return scores | {"test/majority": float(np.mean(np.equal(data.test.labels, commonest)))}


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

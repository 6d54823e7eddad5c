"""Sentiment classification of film reviews.

python -m experiments.imdb --cell=gru
    # IMDB: test accuracy 0.924 (3 seeds), 5 min on 2 CPU cores
python -m experiments.imdb --preset=notes
    # 213,301 parameters: test accuracy 0.892, 3 min
python -m experiments.imdb --preset=pretrained --init_from=RUN
    # RUN is the --workdir of a `word_lm --preset=reviews` run: test accuracy 0.931
python -m experiments.imdb --data_dir=FILE.csv.gz --text_column="Review Text" --label_column=Rating
python -m experiments.imdb --predict="a touching film" --workdir=RUN  # class probabilities
"""

import logging
import pathlib
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import numpy as np

from experiments import word_lm
from experiments.common import cli, runner, train_config
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.text_classification import data as imdb_data
from experiments.text_classification import pretrained
from experiments.text_classification.classifier_predictor import ClassifierPredictor
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
NGRAM_FILE = "ngrams.safetensors"  # file in --workdir for inference and export


@dataclass(frozen=True)
class Config(train_config.TrainConfig):
  # Data
  dataset: str = field_spec("auto", "dataset; auto prefers IMDB", imdb_data.DATASETS)
  text_column: str = field_spec(
    "text", "table column that holds the texts; Title,Text prepends the title to the text"
  )
  label_column: str = field_spec("label", "table column that holds the labels")
  vocab_size: int = field_spec(
    5000, "vocabulary size: padding, unknown and the most frequent words", min_value=3
  )
  ngram_order: int = field_spec(
    3,
    "longest n-gram whose log-count ratio is concatenated to the inputs; 0 for none",
    min_value=0,
  )
  max_train_length: int = field_spec(
    250, "maximum words of a review in training; longer reviews are truncated", min_value=1
  )
  truncation: str = field_spec("window", "part of a longer review kept in training", TRUNCATIONS)
  max_eval_length: int = field_spec(
    1200, "maximum words of a review in evaluation; longer reviews are truncated", min_value=1
  )
  padding: str = field_spec("back", "side of the padding; front padding is not masked", PADDINGS)

  # Model
  embedding: str = field_spec("trainable", "type of the word embedding", ("trainable", "onehot"))
  pretrained_embeddings: str = field_spec(
    "", "file of initial word vectors, GloVe or word2vec", is_file=True
  )
  init_from: str = field_spec(
    "", "--workdir of a word_lm run that initializes the embedding and the encoder"
  )
  freeze_lm: bool = field_spec(
    False, "freeze the language model and concatenate its states to the inputs"
  )
  embed_dim: int = field_spec(
    32, "features of the embedding if --pretrained_embeddings is empty", min_value=1
  )
  bidirectional: bool = field_spec(True, "use a bidirectional encoder")
  pooling: str = field_spec("max_mean", "pooling of the outputs over time", POOLINGS)

  # Optimization
  learning_rate: float = 2e-3
  epochs: int = 5
  word_dropout: float = field_spec(0.4, "dropout rate of words", **PROBABILITY)
  input_dropout: float = field_spec(
    0.2, "variational dropout rate of the embedding's features", **PROBABILITY
  )
  dropout: float = field_spec(
    0.5, "dropout rate between layers and before the last layer", **PROBABILITY
  )

  # Inference
  predict: str = field_spec(
    "", "text to classify with the model of --workdir; empty trains", affects_training=False
  )


def build(
  config: Config, vocabulary: Vocabulary, num_classes: int, lm_config: word_lm.Config | None = None
) -> Classifier:
  """Build the classifier that a configuration specifies.

  Args:
    config: the configuration.
    vocabulary: the vocabulary of the model.
    num_classes: the number of classes.
    lm_config: the configuration of the language model whose states are additional inputs; None
      uses no language model.
  """
  if config.embedding == "onehot":
    embed = embedding.OneHot(len(vocabulary))
  else:
    embed = embedding.embedding_from_file(
      vocabulary, config.embed_dim, config.pretrained_embeddings
    )
  context = None
  if lm_config:
    # Only the encoders of the language model are used. The vocabulary size does not affect them.
    language_model = word_lm.build(lm_config, lm_config.vocab_size)
    context = embedding.contextual_embedding(language_model, len(vocabulary), config.embed_dim)
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


def _eval_truncation(config: Config) -> str:
  return "first" if config.truncation == "first" else "last"


def prepare(config: Config) -> SimpleNamespace:
  """Load the dataset as batches of token ids and n-gram features.

  Returns:
    A namespace with
      name, classes: the name and the classes of the dataset.
      train, valid, test: the batches of each split.
      vocabulary: the vocabulary of the model.
      words: the vocabulary of all words of the training set.
      ngram_features: the `NgramFeatures`; None if --ngram_order is 0.
  """
  dataset = imdb_data.load(
    config.dataset,
    config.data_dir,
    text_column=config.text_column,
    label_column=config.label_column,
  )
  splits = {split: getattr(dataset, split) for split in ("train", "valid", "test")}
  logging.info("preparing %d reviews of %s", sum(map(len, splits.values())), dataset.name)
  texts = {split: [tokenize_lower(text) for text, _ in rows] for split, rows in splits.items()}
  labels = {split: [label for _, label in rows] for split, rows in splits.items()}

  # N-grams are counted over all words. The model embeds only the most frequent words.
  all_words = Vocabulary.from_texts(texts["train"])
  vocabulary = all_words.truncate(config.vocab_size)
  ids = {split: [all_words.encode(text) for text in texts[split]] for split in splits}
  extras, ngram_features = {split: {} for split in splits}, None
  if config.ngram_order:
    ngram_features = NgramFeatures(
      ids["train"], labels["train"], len(dataset.classes), config.ngram_order
    )
    extras = {split: {"features": ngram_features(ids[split])} for split in ("valid", "test")}
    extras["train"] = {"features": ngram_features.cross_fitted_features}

  def make_batches(split, max_length, truncation, seed=None):
    return BucketedBatches(
      [np.where(text < len(vocabulary), text, UNKNOWN) for text in ids[split]],
      labels[split],
      config.batch_size,
      max_length,
      truncation,
      padding=config.padding,
      seed=seed,
      extras=extras[split],
    )

  eval_options = config.max_eval_length, _eval_truncation(config)
  return SimpleNamespace(
    name=dataset.name,
    classes=dataset.classes,
    train=make_batches("train", config.max_train_length, config.truncation, config.seed),
    valid=make_batches("valid", *eval_options),
    test=make_batches("test", *eval_options),
    vocabulary=vocabulary,
    words=all_words.words,
    ngram_features=ngram_features,
  )


def load(workdir: str, **overrides) -> ClassifierPredictor:
  """Load the classifier of a finished run.

      load("runs/imdb")(["a touching film"])

  Args:
    workdir: the --workdir of the run.
    **overrides: fields of the configuration to replace.

  Raises:
    InvalidInputError: `workdir` contains no finished run of this experiment.
  """
  saved, config = runner.load_run(
    Config, workdir, "words", pretrained_embeddings="", init_from="", **overrides
  )
  vocabulary = Vocabulary.from_json(saved.extras["words"], ())
  classes, lm_config = tuple(saved.extras["classes"]), None
  if config.freeze_lm:
    lm_config = word_lm.Config(**saved.extras["language"] | {"backend": config.backend})
  model = build(config, vocabulary.truncate(config.vocab_size), len(classes), lm_config)
  if "embedding" in saved.params:  # --pretrained_embeddings may have set the width
    table = saved.params["embedding"]["embedding"]
    model = model.clone(embedding=embedding.embedding_from_array(table))
  ngrams = None
  if config.ngram_order:
    ngrams = NgramTrie.load(pathlib.Path(workdir).expanduser() / NGRAM_FILE)
  return ClassifierPredictor(
    model,
    saved.params,
    vocabulary,
    config.vocab_size,
    classes,
    ngrams,
    config.max_eval_length,
    _eval_truncation(config),
    config.padding,
  )


def print_prediction(classifier: ClassifierPredictor, text: str) -> dict[str, str | float]:
  """Print the class probabilities in descending order; return the most probable class."""
  (probabilities,) = classifier([text])
  ranked = sorted(probabilities.items(), key=lambda item: -item[1])
  for label, probability in ranked:
    print(f"  {probability:.3f}  {label}")
  label, probability = ranked[0]
  return {"label": label, "probability": probability}


def run(config: Config = Config()) -> dict:
  """Train a classifier and return the validation and test scores of its best parameters.

  The parameters with the best validation score are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model classifies the text.
  """
  if config.predict:
    return print_prediction(load(config.workdir), config.predict)
  if config.freeze_lm and not config.init_from:
    raise InvalidInputError("--freeze_lm needs a language model: --init_from=RUN, of word_lm")
  lm_config, extras = None, {}
  if config.init_from:
    lm_run, saved_config = runner.load_run(
      word_lm.Config, config.init_from, "vocabulary", text_file=""
    )
    if config.freeze_lm:
      lm_config, extras = saved_config, {"language": asdict(saved_config)}
  data = prepare(config)
  task = tasks.classification_task(build(config, data.vocabulary, len(data.classes), lm_config))
  if config.init_from:
    task = pretrained.with_pretrained_params(
      task, data.vocabulary, lm_run.params, lm_run.extras["vocabulary"]
    )
  extras |= {"words": data.words, "classes": data.classes}
  _, scores = runner.train_and_test(
    config, task, data, data.name, warmup_fraction=0.1, extras=extras
  )
  if config.workdir and config.ngram_order:
    trie = NgramTrie.from_features(data.ngram_features)
    trie.save(runner.run_file(config.workdir, NGRAM_FILE))
  majority_class = np.bincount(data.train.labels).argmax()
  return scores | {"test/majority": float(np.mean(np.equal(data.test.labels, majority_class)))}


if __name__ == "__main__":
  cli.main(Config, run, PRESETS)

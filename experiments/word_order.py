"""Comparison of recurrent text classifiers with baselines that ignore word order.

  python -m experiments.word_order --workdir=runs/order                            # embedded data
  python -m experiments.word_order --data_dir=imdb --epochs=5 --workdir=runs/imdb  # real reviews

"Dog bites man" and "man bites dog" are the same bag of words. Three baselines with fixed-size
inputs ignore word order: logistic regression on word counts, logistic regression on TF-IDF, and an
MLP on the mean word vector. The recurrent models are a vanilla RNN, an LSTM and a GRU.
"""

import dataclasses
import pathlib

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import imdb
from experiments.common import cli, runner, train_config
from experiments.common.train_config import field_spec
from experiments.text_classification import data as imdb_data
from experiments.text_classification.plots import plot_bars
from rnnjax.data.vocabulary import tokenize_lower
from rnnjax.types import InvalidInputError

DEFAULT_CELLS = ("vanilla", "lstm", "gru")


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  dataset: str = field_spec(
    "auto", "dataset; auto reads --data_dir if set, else the embedded one", imdb_data.DATASETS
  )
  text_column: str = field_spec("text", "table column that holds the texts")
  label_column: str = field_spec("label", "table column that holds the labels")
  cell: str = train_config.cell_field("", "recurrent cell; empty compares vanilla, lstm and gru")
  vocab_size: int = field_spec(
    20_000, "vocabulary size of the bag-of-words models: the most frequent words", min_value=1
  )
  embed_dim: int = field_spec(50, "features of the mean word vector", min_value=1)
  hidden_size: int = 64
  learning_rate: float = 2e-3
  epochs: int = 3


def bag_of_words_models(config: Config) -> dict[str, Pipeline]:
  """Return the baselines that ignore word order, as {name: scikit-learn pipeline}."""
  options = dict(
    tokenizer=tokenize_lower, token_pattern=None, lowercase=False, max_features=config.vocab_size
  )
  linear = LogisticRegression(max_iter=1000)
  # The mean word vector of a text is its relative word frequencies times the word vectors. The word
  # vectors come from a truncated SVD, the best low-rank approximation of the frequency matrix.
  frequencies = TfidfVectorizer(**options, use_idf=False, norm="l1")
  word_vectors = TruncatedSVD(config.embed_dim, random_state=config.seed)
  mlp = MLPClassifier((100,), early_stopping=True, random_state=config.seed)
  return {
    "counted words": make_pipeline(CountVectorizer(**options), linear),
    "TF-IDF": make_pipeline(TfidfVectorizer(**options), linear),
    "MLP on mean vectors": make_pipeline(frequencies, word_vectors, StandardScaler(), mlp),
  }


def run(config: Config = Config()) -> dict:
  """Train and test all models; return the test accuracy of each model.

  The bag-of-words models are trained on full texts. The recurrent models are trained on truncated
  texts: the first `max_train_length` words.

  Raises:
    InvalidInputError: --embed_dim exceeds the number of words or --vocab_size.
  """
  use_files = config.dataset != "auto" or config.data_dir
  data_options = {
    "dataset": config.dataset if use_files else "embedded",
    "data_dir": config.data_dir,
    "text_column": config.text_column,
    "label_column": config.label_column,
  }
  dataset = imdb_data.load(**data_options)
  texts, labels = zip(*dataset.train)
  num_words = len({word for text in texts for word in tokenize_lower(text)})
  if config.embed_dim > min(num_words, config.vocab_size):
    raise InvalidInputError(
      f"--embed_dim must be at most the number of words, {min(num_words, config.vocab_size)}; "
      f"got {config.embed_dim}"
    )
  test_accuracies, valid_accuracies = {}, {}
  for name, pipeline in bag_of_words_models(config).items():
    test_accuracies[name] = float(pipeline.fit(texts, labels).score(*zip(*dataset.test)))

  shared_options = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(train_config.TrainConfig)
  }
  for cell in [config.cell] if config.cell else DEFAULT_CELLS:
    workdir = str(pathlib.Path(config.workdir).expanduser() / cell) if config.workdir else ""
    # N-gram features are disabled because they encode the order of neighboring words.
    options = {"cell": cell, "workdir": workdir, "ngram_order": 0, "truncation": "first"}
    scores = imdb.run(imdb.Config(**shared_options | data_options | options))
    test_accuracies[cell] = scores["test/accuracy"]
    valid_accuracies[cell] = scores["valid/accuracy"]

  if config.workdir:
    majority_class = np.bincount(labels).argmax()
    majority_accuracy = np.mean([label == majority_class for _, label in dataset.test])
    plot_bars(
      runner.figure_file(config.workdir, "order.png"),
      test_accuracies,
      "accuracy",
      {"majority class": majority_accuracy},
    )
  scores = {f"test/{name.replace(' ', '_')}": value for name, value in test_accuracies.items()}
  scores |= {f"valid/{cell}": value for cell, value in valid_accuracies.items()}
  return {"dataset": dataset.name, "seed": config.seed} | scores


if __name__ == "__main__":
  cli.main(Config, run)

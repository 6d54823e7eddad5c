"""Dog bites man, man bites dog: what is lost where words lie in a bag, and what a net that reads in
order makes of it.

  python -m experiments.word_order --workdir=runs/order                            # order is all
  python -m experiments.word_order --data_dir=imdb --epochs=5 --workdir=runs/imdb  # real reviews

Three ways to give texts of any length to what wants a fixed number of inputs, each blind to order:
counted words, TF-IDF, and an MLP on the mean of word vectors; beside them vanilla, LSTM and GRU.
"""

import dataclasses
import pathlib

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import imdb as net
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
    "auto", "auto: --data_dir where given, else embedded", imdb_data.DATASETS
  )
  text_column: str = field_spec("text", "column of a table's texts")
  label_column: str = field_spec("label", "column of a table's labels")
  cell: str = field_spec("", "one cell; three where none is named", ["", *train_config.CELLS])
  vocab_size: int = field_spec(20_000, "most frequent words that bags hold", min_value=1)
  embed_dim: int = field_spec(50, "features of a word in the mean of vectors", min_value=1)
  hidden_size: int = 64
  learning_rate: float = 2e-3
  epochs: int = 3


def bag_of_words_models(config: Config) -> dict:
  """Classifiers that do not know the order of words."""
  how = dict(
    tokenizer=tokenize_lower, token_pattern=None, lowercase=False, max_features=config.vocab_size
  )
  linear = LogisticRegression(max_iter=1000)
  # The mean of vectors that suit the texts best as such means: of counts, over their sum.
  mean = TfidfVectorizer(**how, use_idf=False, norm="l1")
  vectors = TruncatedSVD(config.embed_dim, random_state=config.seed)
  mlp = MLPClassifier((100,), early_stopping=True, random_state=config.seed)
  return {
    "counted words": make_pipeline(CountVectorizer(**how), linear),
    "TF-IDF": make_pipeline(TfidfVectorizer(**how), linear),
    "MLP on mean vectors": make_pipeline(mean, vectors, StandardScaler(), mlp),
  }


def run(config: Config = Config()):
  """Trains bags on whole texts, nets on their beginnings, tests each once; returns accuracies."""
  own = config.dataset != "auto" or config.data_dir
  where = {"dataset": config.dataset if own else "embedded", "data_dir": config.data_dir}
  where |= {"text": config.text_column, "label": config.label_column}
  reviews = imdb_data.load(**where)
  texts, labels = zip(*reviews.train)
  distinct = {word for text in texts for word in tokenize_lower(text)}
  if config.embed_dim > min(len(distinct), config.vocab_size):
    raise InvalidInputError(
      f"--embed_dim must be at most {min(len(distinct), config.vocab_size)}, the words; "
      f"got {config.embed_dim}"
    )
  found, chosen = {}, {}
  for name, bag in bag_of_words_models(config).items():
    found[name] = float(bag.fit(texts, labels).score(*zip(*reviews.test)))
  shared = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(train_config.TrainConfig)
  }
  for cell in [config.cell] if config.cell else DEFAULT_CELLS:
    out = str(pathlib.Path(config.workdir).expanduser() / cell) if config.workdir else ""
    how = {"cell": cell, "out": out, "evidence": 0, "keep": "first"}
    done = net.run(net.Config(**shared | where | how))
    found[cell], chosen[cell] = done["test/accuracy"], done["valid/accuracy"]
  if config.workdir:
    chance = np.mean([label == np.bincount(labels).argmax() for _, label in reviews.test])
    plot_bars(
      runner.figure_file(config.workdir, "order.png"), found, "accuracy", {"the commonest": chance}
    )
  scores = {f"test/{name.replace(' ', '_')}": value for name, value in found.items()}
  scores |= {f"valid/{cell}": value for cell, value in chosen.items()}
  return {"dataset": reviews.name, "seed": config.seed} | scores


if __name__ == "__main__":
  cli.main(Config, run)

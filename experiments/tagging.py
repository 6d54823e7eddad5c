"""Sequence tagging of parts of speech, chunks or named entities.

python -m experiments.tagging  # trains on generated sentences
python -m experiments.tagging --task=ner --data_dir=conll2003 --workdir=runs/ner
    # CoNLL-2003: F1 0.860, 10 min
python -m experiments.tagging --predict="Teddy Roosevelt was a great President !" --workdir=runs/ner
"""

import dataclasses
from types import SimpleNamespace

from experiments.common import cli, runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
from experiments.sequence_tagging import bio_tags, char_encoders
from experiments.sequence_tagging import data as tagged_data
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.sequence_tagging.tagger_predictor import TaggerPredictor
from rnnjax import bidirectional, crf
from rnnjax.data.files import DATASETS
from rnnjax.data.vocabulary import tokenize
from rnnjax.models import embedding
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks

CHAR_ENCODERS = ("convolution", "recurrent", "none")
CHAR_EMBED_DIM, COLUMN_EMBED_DIM = 30, 10  # embedding size of characters and of extra columns


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  # Data
  task: str = field_spec("ner", "tags to predict", tagged_data.TASKS)
  dataset: str = field_spec("auto", "sentences to train on", DATASETS)
  use_extra_columns: bool = field_spec(
    False, "use the columns between word and tag as additional inputs", group="data"
  )
  min_count: int = field_spec(
    2, "minimum occurrences of a word in the vocabulary; rarer words are unknown", min_value=1
  )
  max_train_length: int = field_spec(
    400, "maximum words of a training sentence; longer sentences are truncated", min_value=1
  )

  # Model
  hidden_size: int = 200
  bidirectional: bool = field_spec(True, "use a bidirectional encoder")
  crf: bool = field_spec(True, "predict all tags of a sentence jointly with a linear-chain CRF")
  embed_dim: int = field_spec(
    100, "word embedding size if --pretrained_embeddings is empty", min_value=1
  )
  pretrained_embeddings: str = field_spec(
    "", "file of initial word vectors, GloVe or word2vec", is_file=True
  )
  char_encoder: str = field_spec("convolution", "encoder of a word's characters", CHAR_ENCODERS)
  char_features: int = field_spec(60, "output features of the character encoder", min_value=2)

  # Optimization
  batch_size: int = 16
  learning_rate: float = 3e-3
  word_dropout: float = field_spec(
    0.2, "dropout rate of words; the characters of a dropped word are kept", **PROBABILITY
  )
  input_dropout: float = field_spec(
    0.4, "variational dropout rate of the input features", **PROBABILITY
  )
  dropout: float = field_spec(
    0.5, "dropout rate between layers and before the last layer", **PROBABILITY
  )

  # Inference
  predict: str = field_spec(
    "", "sentence to tag with the model of --workdir; empty trains", affects_training=False
  )


def _build_char_encoder(config: Config, num_chars: int):
  if config.char_encoder == "convolution":
    return char_encoders.CharCnn(num_chars, CHAR_EMBED_DIM, config.char_features)
  if config.char_encoder == "recurrent":
    cell = make_cell(config.cell, config.char_features // 2)
    return char_encoders.CharRnn(num_chars, CHAR_EMBED_DIM, bidirectional(cell, cell))
  return None


def build(config: Config, lexicon: Lexicon) -> Tagger:
  """Build the tagger that a configuration specifies for the vocabularies of a lexicon."""
  embed = embedding.embedding_from_file(
    lexicon.words, config.embed_dim, config.pretrained_embeddings
  )
  if config.crf:
    tag_layer = crf.linear_chain(len(lexicon.tags), *bio_tags.allowed_transitions(lexicon.tags))
  else:
    tag_layer = crf.independent(len(lexicon.tags))
  return Tagger(
    embed,
    train_config.build_encoder(config),
    tag_layer,
    _build_char_encoder(config, len(lexicon.characters)),
    tuple((len(column), COLUMN_EMBED_DIM) for column in lexicon.columns),
    config.word_dropout,
    config.input_dropout,
    config.dropout,
  )


def prepare(config: Config) -> SimpleNamespace:
  """Load the dataset and batch it.

  Returns:
    A namespace with the `dataset`, the `lexicon`, and the batches `train`, `valid` and `test`.
  """
  dataset = tagged_data.load(
    config.dataset, config.data_dir, config.task, config.max_train_length, config.use_extra_columns
  )
  splits = dataset.train, dataset.valid, dataset.test
  tags = {tag for split in splits for sentence in split for tag in sentence.tags}
  lexicon = Lexicon.from_sentences(dataset.train, tags, config.min_count)
  return SimpleNamespace(
    dataset=dataset,
    lexicon=lexicon,
    train=lexicon.make_batches(dataset.train, config.batch_size, config.seed),
    # Evaluation stores no activations for a backward pass, so larger batches fit.
    valid=lexicon.make_batches(dataset.valid, 4 * config.batch_size),
    test=lexicon.make_batches(dataset.test, 4 * config.batch_size),
  )


def load(workdir: str, **overrides) -> TaggerPredictor:
  """Load the tagger of a finished run.

      load("runs/ner")([["Teddy", "left"]])[0].tags

  Args:
    workdir: the --workdir of the run.
    **overrides: fields of the configuration to replace.

  Raises:
    InvalidInputError: `workdir` contains no finished run of this experiment.
  """
  saved, config = runner.load_run(Config, workdir, "lexicon", pretrained_embeddings="", **overrides)
  lexicon = Lexicon.from_json(saved.extras["lexicon"])
  # --pretrained_embeddings may have set the embedding size, so it is taken from the parameters.
  embed_dim = saved.params["embedding"]["embedding"].shape[1]
  model = build(dataclasses.replace(config, embed_dim=embed_dim), lexicon)
  return TaggerPredictor(model, saved.params, lexicon)


def print_tags(predictor: TaggerPredictor, text: str) -> dict[str, str]:
  """Print a sentence with its predicted tags; return {"tags": tags separated by spaces}."""
  highlighted, tags = predictor.highlight(tokenize(text))
  print(highlighted)
  return {"tags": " ".join(tags)}


def run(config: Config = Config()) -> dict:
  """Train a tagger, print its error table, and return the validation and test scores.

  The parameters with the best validation score are evaluated on the test set. If --predict is
  set, no model is trained, and the saved model tags the sentence.
  """
  if config.predict:
    return print_tags(load(config.workdir), config.predict)
  data = prepare(config)
  model, span_tables = build(config, data.lexicon), bio_tags.span_tables(data.lexicon.tags)
  params, scores = runner.train_and_test(
    config,
    tasks.tagging_task(model, span_tables),
    data,
    data.dataset.name,
    metric="f1" if span_tables else "accuracy",
    extras={"lexicon": data.lexicon.to_json()},
  )
  predictor = TaggerPredictor(model, params, data.lexicon)
  predictor_scores, errors = predictor.evaluate(data.dataset.test)
  print(errors)
  return {"task": config.task} | scores | predictor_scores


if __name__ == "__main__":
  cli.main(Config, run)

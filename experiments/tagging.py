"""A tag for every word: parts of speech, chunks, names.

python -m experiments.tagging                                          # generated sentences
python -m experiments.tagging --task=ner --data_dir=conll2003 --workdir=runs/ner  # F1 0.860, 10 min
python -m experiments.tagging --load=runs/ner --predict="Teddy Roosevelt was a great President !"
"""

import dataclasses
from types import SimpleNamespace

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.sequence_tagging import bio_tags
from experiments.sequence_tagging import char_encoders as spelling
from experiments.sequence_tagging import data as tagged_data
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.sequence_tagging.tagger_predictor import TaggerPredictor
from rnnjax import bidirectional, crf
from rnnjax.data.files import DATASETS
from rnnjax.data.vocabulary import tokenize
from rnnjax.models import embedding
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

CHAR_ENCODERS = ("convolution", "recurrent", "none")
CHAR_EMBED_DIM, COLUMN_EMBED_DIM = 30, 10  # features of a character, and of each column


@dataclasses.dataclass(frozen=True)
class Config(train_config.TrainConfig):
  task: str = field_spec("ner", "what the tags say", tagged_data.TASKS)
  dataset: str = field_spec("auto", "which sentences", DATASETS)
  hidden_size: int = 200
  batch_size: int = 16
  learning_rate: float = 3e-3
  bidirectional: bool = field_spec(True, "read in both directions")
  crf: bool = field_spec(True, "tags of a sentence as a whole, instead of each by itself")
  use_extra_columns: bool = field_spec(False, "read the file's columns between word and tag, too")
  embed_dim: int = field_spec(100, "features of a word, where no vectors are given", min_value=1)
  pretrained_embeddings: str = field_spec(
    "", "word vectors from which to start: GloVe's or word2vec's", is_file=True
  )
  min_count: int = field_spec(2, "words that occur less often are unknown", min_value=1)
  char_encoder: str = field_spec("convolution", "how characters become a vector", CHAR_ENCODERS)
  char_features: int = field_spec(60, "features of a spelling", min_value=2)
  max_train_length: int = field_spec(
    400, "words of a longer sentence that are trained on", min_value=1
  )
  word_dropout: float = field_spec(
    0.2, "rate at which words vanish, but not their spelling", **PROBABILITY
  )
  input_dropout: float = field_spec(0.4, "rate at which features of a word vanish", **PROBABILITY)
  dropout: float = field_spec(0.5, "rate between layers and before the last one", **PROBABILITY)
  load: str = field_spec(
    "", "folder of a finished run: only tag with its model", affects_training=False
  )
  predict: str = field_spec("", "a sentence to tag", affects_training=False)


def build(config: Config, lexicon: Lexicon) -> Tagger:
  """The model alone."""
  half, K = CELLS[config.cell](config.char_features // 2), len(lexicon.tags)
  spelled = {
    "convolution": spelling.CharCnn(len(lexicon.characters), CHAR_EMBED_DIM, config.char_features),
    "recurrent": spelling.CharRnn(
      len(lexicon.characters), CHAR_EMBED_DIM, bidirectional(half, half)
    ),
  }
  embed = embedding.embedding_from_file(
    lexicon.words, config.embed_dim, config.pretrained_embeddings
  )
  last = (
    crf.linear_chain(K, *bio_tags.allowed_transitions(lexicon.tags))
    if config.crf
    else crf.independent(K)
  )
  return Tagger(
    embed,
    train_config.build_encoder(config),
    last,
    spelled.get(config.char_encoder),
    tuple((len(column), COLUMN_EMBED_DIM) for column in lexicon.columns),
    config.word_dropout,
    config.input_dropout,
    config.dropout,
  )


def prepare(config: Config):
  """The sentences, as batches, too, and what is known of their words and tags."""
  text = tagged_data.load(
    config.dataset, config.data_dir, config.task, config.max_train_length, config.use_extra_columns
  )
  tags = {tag for part in text[1:] for sentence in part for tag in sentence.tags}
  lexicon = Lexicon.from_sentences(text.train, tags, config.min_count)
  train = lexicon.make_batches(text.train, config.batch_size, config.seed)
  valid, test = (
    lexicon.make_batches(part, 4 * config.batch_size) for part in (text.valid, text.test)
  )
  return SimpleNamespace(text=text, lexicon=lexicon, train=train, valid=valid, test=test)


def load(workdir: str, **overrides) -> TaggerPredictor:
  """The tagger of a run's --workdir: load("runs/ner")([["Teddy", "left"]])[0].tags."""
  saved, config = runner.load_run(Config, workdir, "lexicon", vectors="", **overrides)
  lexicon = Lexicon.from_json(saved.extras["lexicon"])
  width = saved.params["embedding"]["embedding"].shape[1]
  model = build(dataclasses.replace(config, embed_dim=width), lexicon)
  return TaggerPredictor(model, saved.params, lexicon)


def print_tags(config: Config, predictor: TaggerPredictor) -> dict[str, str]:
  """Prints the sentence of --predict with its tags."""
  shown, tags = predictor.highlight(tokenize(config.predict))
  print(shown)
  return {"tags": " ".join(tags)}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if (config.load or config.predict) and (config.use_extra_columns or not tokenize(config.predict)):
    raise InvalidInputError(
      "--predict must have a word, and has no columns beside: it needs --use_extra_columns=false"
    )
  if config.load:
    return print_tags(config, load(config.load))
  data = prepare(config)
  model, pieces = build(config, data.lexicon), bio_tags.span_tables(data.lexicon.tags)
  how = dict(score="f1" if pieces else "accuracy", beside={"lexicon": data.lexicon.to_json()})
  task = tasks.tagging_task(model, pieces)
  params, scores = runner.train_and_test(config, task, data, data.text.name, **how)
  labeller = TaggerPredictor(model, params, data.lexicon)
  judged, errors = labeller.evaluate(data.text.test)
  print(errors)
  return (
    {"task": config.task}
    | scores
    | judged
    | (print_tags(config, labeller) if config.predict else {})
  )


if __name__ == "__main__":
  cli.main(Config, run)

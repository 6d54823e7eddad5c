"""A tag for every word: parts of speech, chunks, names.

python -m experiments.tagging                                          # generated sentences
python -m experiments.tagging --task=ner --data_dir=conll2003 --out=runs/ner  # F1 0.860, 10 min
python -m experiments.tagging --load=runs/ner --tag="Teddy Roosevelt was a great President !"
"""

import dataclasses
from types import SimpleNamespace

from experiments.common import cli, runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.sequence_tagging import bio_tags
from experiments.sequence_tagging import char_encoders as spelling
from experiments.sequence_tagging import data as tagged_data
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.sequence_tagging.tagger_predictor import Labeller
from rnnjax import bidirectional, crf
from rnnjax.data.files import DATASETS
from rnnjax.data.vocabulary import cut
from rnnjax.models import embedding
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import BadInput

SPELLINGS = ("convolution", "recurrent", "none")
LETTER, COLUMN = 30, 10  # features of a character, and of each column


@dataclasses.dataclass(frozen=True)
class Config(train_config.Common):
  task: str = option("ner", "what the tags say", tagged_data.TASKS)
  dataset: str = option("auto", "which sentences", DATASETS)
  hidden: int = 200
  batch: int = 16
  rate: float = 3e-3
  bidirectional: bool = option(True, "read in both directions")
  crf: bool = option(True, "tags of a sentence as a whole, instead of each by itself")
  columns: bool = option(False, "read the file's columns between word and tag, too")
  width: int = option(100, "features of a word, where no vectors are given", low=1)
  vectors: str = option("", "word vectors from which to start: GloVe's or word2vec's", file=True)
  least: int = option(2, "words that occur less often are unknown", low=1)
  spelling: str = option("convolution", "how characters become a vector", SPELLINGS)
  filters: int = option(60, "features of a spelling", low=2)
  limit: int = option(400, "words of a longer sentence that are trained on", low=1)
  word_dropout: float = option(0.2, "rate at which words vanish, but not their spelling", **RATE)
  input_dropout: float = option(0.4, "rate at which features of a word vanish", **RATE)
  dropout: float = option(0.5, "rate between layers and before the last one", **RATE)
  load: str = option("", "folder of a finished run: only tag with its model", aside=True)
  tag: str = option("", "a sentence to tag", aside=True)


def build(config: Config, lexicon: Lexicon) -> Tagger:
  """The model alone."""
  half, K = CELLS[config.cell](config.filters // 2), len(lexicon.tags)
  spelled = {
    "convolution": spelling.Convolution(len(lexicon.characters), LETTER, config.filters),
    "recurrent": spelling.Recurrent(len(lexicon.characters), LETTER, bidirectional(half, half)),
  }
  embed = embedding.begun(lexicon.words, config.width, config.vectors)
  last = (
    crf.linear_chain(K, *bio_tags.transitions(lexicon.tags)) if config.crf else crf.independent(K)
  )
  return Tagger(
    embed,
    train_config.encoder(config),
    last,
    spelled.get(config.spelling),
    tuple((len(column), COLUMN) for column in lexicon.columns),
    config.word_dropout,
    config.input_dropout,
    config.dropout,
  )


def prepare(config: Config):
  """The sentences, as batches, too, and what is known of their words and tags."""
  text = tagged_data.load(
    config.dataset, config.data_dir, config.task, config.limit, config.columns
  )
  tags = {tag for part in text[1:] for sentence in part for tag in sentence.tags}
  lexicon = Lexicon.of(text.train, tags, config.least)
  train = lexicon.batches(text.train, config.batch, config.seed)
  valid, test = (lexicon.batches(part, 4 * config.batch) for part in (text.valid, text.test))
  return SimpleNamespace(text=text, lexicon=lexicon, train=train, valid=valid, test=test)


def load(out: str, **changes) -> Labeller:
  """The tagger of a run's --out: load("runs/ner")([["Teddy", "left"]])[0].tags."""
  saved, config = runner.restore(Config, out, "lexicon", vectors="", **changes)
  lexicon = Lexicon.load(saved.beside["lexicon"])
  width = saved.params["embedding"]["embedding"].shape[1]
  model = build(dataclasses.replace(config, width=width), lexicon)
  return Labeller(model, saved.params, lexicon)


def tag(config: Config, labeller: Labeller) -> dict[str, str]:
  """Prints the sentence of --tag with its tags."""
  shown, tags = labeller.show(cut(config.tag))
  print(shown)
  return {"tags": " ".join(tags)}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if (config.load or config.tag) and (config.columns or not cut(config.tag)):
    raise BadInput("--tag must have a word, and has no columns beside: it needs --columns=false")
  if config.load:
    return tag(config, load(config.load))
  data = prepare(config)
  model, pieces = build(config, data.lexicon), bio_tags.pieces(data.lexicon.tags)
  how = dict(score="f1" if pieces else "accuracy", beside={"lexicon": data.lexicon.json()})
  task = tasks.tagging(model, pieces)
  params, scores = runner.learn(config, task, data, data.text.name, **how)
  labeller = Labeller(model, params, data.lexicon)
  judged, errors = labeller.judge(data.text.test)
  print(errors)
  return {"task": config.task} | scores | judged | (tag(config, labeller) if config.tag else {})


if __name__ == "__main__":
  cli.main(Config, run)

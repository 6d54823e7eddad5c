"""A tag for every word: parts of speech, chunks, names.

  python -m experiments.tagging                                          # generated sentences
  python -m experiments.tagging --task=ner --data_dir=conll2003 --out=runs/ner
  python -m experiments.tagging --load=runs/ner --tag="Teddy Roosevelt was a great President !"
"""

import dataclasses
import logging
import time
from types import SimpleNamespace

from seqeval.metrics import f1_score
from seqeval.scheme import IOBES

from experiments import options
from experiments.options import CELLS, RATE, option
from rnnjax import bidirectional, crf, forward, stack, tasks, training
from rnnjax.data import spans, tagged
from rnnjax.data.lexicon import Lexicon
from rnnjax.diagnostics import tags as shown
from rnnjax.interop import vectors
from rnnjax.models import embedding, spelling
from rnnjax.models.labeller import Labeller
from rnnjax.models.tagger import Tagger
from rnnjax.training import averages, optimizers
from rnnjax.types import BadInput

SPELLINGS = ("convolution", "recurrent", "none")


@dataclasses.dataclass(frozen=True)
class Config(options.Common):
  task: str = option("ner", "what the tags say", tagged.TASKS)
  dataset: str = option("auto", "which sentences", tagged.DATASETS)
  hidden: int = option(200, "hidden units of each cell", low=1)
  batch: int = option(16, "sentences of a batch", low=1)
  rate: float = option(3e-3, "peak learning rate", low=0)
  epochs: int = option(15, "passes over the training part", low=1)
  bidirectional: bool = option(True, "read in both directions")
  crf: bool = option(True, "tags of a sentence as a whole, instead of each by itself")
  columns: bool = option(False, "read the file's columns between word and tag, too")
  width: int = option(100, "features of a word, where no vectors are given", low=1)
  vectors: str = option("", "word vectors from which to start: GloVe's or word2vec's", file=True)
  least: int = option(2, "words that occur less often are unknown", low=1)
  spelling: str = option("convolution", "how characters become a vector", SPELLINGS)
  letters: int = option(30, "features of a character", low=1)
  filters: int = option(60, "features of a spelling", low=2)
  limit: int = option(400, "words of a longer sentence that are trained on", low=1)
  word_dropout: float = option(0.2, "rate at which words vanish, but not their spelling", **RATE)
  input_dropout: float = option(0.4, "rate at which features of a word vanish", **RATE)
  dropout: float = option(0.5, "rate between layers and before the last one", **RATE)
  average: float = option(0.998, "decay of the parameters' moving average; 0 for none", **RATE)
  load: str = option("", "folder of a finished run: only tag with its model", aside=True)
  tag: str = option("", "a sentence to tag, cut at blanks", aside=True)


def build(config: Config, lexicon: Lexicon) -> Tagger:
  """The model alone."""
  cell = CELLS[config.cell](config.hidden)
  cells, direction = ([cell] * 2, bidirectional) if config.bidirectional else ([cell], forward)
  layers = [direction(*cells, backend=config.backend)] * config.layers
  symbols, K = (len(lexicon.characters), config.letters), len(lexicon.tags)
  half = CELLS[config.cell](config.filters // 2)
  spelled = {
    "convolution": spelling.Convolution(*symbols, config.filters),
    "recurrent": spelling.Recurrent(*symbols, bidirectional(half, half)),
  }
  if config.vectors:
    embed = embedding.given(vectors.read(config.vectors, lexicon.words))
  else:
    embed = embedding.trainable(len(lexicon.words), config.width)
  last = crf.linear_chain(K, *spans.transitions(lexicon.tags)) if config.crf else crf.independent(K)
  return Tagger(
    embed, stack(*layers, dropout=config.dropout), last, spelled.get(config.spelling),
    tuple((len(column), 10) for column in lexicon.columns),
    config.word_dropout, config.input_dropout, config.dropout,
  )  # fmt: skip


def prepare(config: Config):
  """The sentences as batches, and the lexicon of the training part."""
  text = tagged.load(config.dataset, config.data_dir, config.task)
  whole = list if config.task == "pos" else spans.iobes

  def ready(sentence, limit=None):
    words, tags, columns = sentence.words[:limit], sentence.tags[:limit], sentence.columns
    columns = [column[:limit] for column in columns] if config.columns else []
    return sentence._replace(words=words, tags=whole(tags), columns=columns)

  train = [ready(sentence, config.limit) for sentence in text.train]
  valid, test = (list(map(ready, part)) for part in (text.valid, text.test))
  tags = lambda sentences: {tag for sentence in sentences for tag in sentence.tags}
  lexicon = Lexicon.of(train, tags([*train, *valid, *test]), config.least)
  missed = set(lexicon.tags) - tags(train)
  if missed:
    logging.warning("the training part has no %s, which therefore will be missed", sorted(missed))
  return SimpleNamespace(
    name=text.name, lexicon=lexicon, sentences=test,
    train=lexicon.batches(train, config.batch, config.seed),
    valid=lexicon.batches(valid, 64), test=lexicon.batches(test, 64),
  )  # fmt: skip


def load(out: str) -> Labeller:
  """The tagger of a run's --out: load("runs/ner")([["Teddy", "left"]])[0].tags."""
  saved = training.load(out)
  if "lexicon" not in saved.beside:
    raise BadInput(f"{out!r} is the --out of another experiment: a tagger has a lexicon")
  lexicon = Lexicon.load(saved.beside["lexicon"])
  width = saved.params["embedding"]["embedding"].shape[1]
  config = Config(**saved.config | {"vectors": "", "width": width})
  return Labeller(build(config, lexicon), saved.params, lexicon)


def tag(config: Config, labeller: Labeller) -> dict[str, str]:
  """Prints the sentence of --tag with its tags."""
  words = config.tag.split()
  if not words:
    return {}
  (one,) = labeller([words])
  whole = shown.words if config.task == "pos" else spans.spans
  print(shown.coloured(words, one.tags, one.probabilities, whole))
  return {"tags": " ".join(one.tags)}


def judge(config: Config, labeller: Labeller, sentences) -> dict[str, float]:
  """Prints where the tagger errs; returns seqeval's strict F1, and words tagged in a second."""
  words, columns = [s.words for s in sentences], [s.columns for s in sentences]
  labeller(words, columns)  # compiles
  begun = time.perf_counter()
  found = [one.tags for one in labeller(words, columns)]
  scores = {"words_per_second": sum(map(len, words)) / (time.perf_counter() - begun)}
  true, of_words = [s.tags for s in sentences], config.task == "pos"
  print(shown.errors(true, found, shown.words if of_words else spans.spans))
  if of_words:
    return scores
  return scores | {"test/seqeval": f1_score(true, found, mode="strict", scheme=IOBES)}


def run(config: Config = Config()):
  """Trains, chooses on the validation part, tests once; returns the scores."""
  if config.load:
    return tag(config, load(config.load))
  training.mesh(config.batch)  # a batch that the devices cannot share is refused at once
  data = prepare(config)
  model = build(config, data.lexicon)
  pieces = None if config.task == "pos" else spans.pieces(data.lexicon.tags)
  steps, average = config.epochs * len(data.train), averages.moving(config.average)
  optimizer = training.adam(optimizers.schedule(config.rate, steps, warmup=0.05))
  how = dict(average=average, beside={"lexicon": data.lexicon.json()})
  with training.Run(
    config, tasks.tagging(model, pieces), data, optimizer, steps,
    score="f1" if pieces else "accuracy", **how,
  ) as run:  # fmt: skip
    for _ in run.train():
      pass
    scores = {"dataset": data.name, "task": config.task, "cell": config.cell, "seed": config.seed}
    scores |= run.test()
  labeller = Labeller(model, run.progress.best, data.lexicon)
  return scores | judge(config, labeller, data.sentences) | tag(config, labeller)


if __name__ == "__main__":
  options.main(Config, run)

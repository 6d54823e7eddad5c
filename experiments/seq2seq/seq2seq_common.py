"""What translation, summaries and pronunciation share: flags, model, training, writing."""

import dataclasses
import json
import logging
from types import SimpleNamespace

import numpy as np
import sacrebleu

from experiments.common import runner, train_config
from experiments.common.train_config import CELLS, RATE, option
from experiments.seq2seq import data as pairs_data
from rnnjax import attention, training
from rnnjax.analysis import figures
from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.files import DATASETS
from rnnjax.data.tokenizer import BEGIN, END, KINDS, Subwords
from rnnjax.decoders import decoder
from rnnjax.models import embedding
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import Translator
from rnnjax.models.seq2seq_predictor import Rewriter, ended
from rnnjax.output_layers import full
from rnnjax.training import tasks
from rnnjax.types import BadInput

ATTENTIONS = {
  "none": lambda H: None,
  "dot": lambda H: attention.dot(),
  "general": lambda H: attention.general(),
  "additive": attention.additive,
  "multi_head": lambda H: attention.multi_head(4, H),
  "coverage": lambda H: attention.additive(H, coverage=True),
}
DRAWN = 200  # pieces of a text, at most, whose attention makes a picture


@dataclasses.dataclass(frozen=True)
class Rewriting(train_config.Common):
  dataset: str = option("auto", "which pairs of texts", DATASETS)
  cell: str = "gru"
  batch: int = 32
  rate: float = 3e-3
  epochs: int = 12
  attention: str = option("general", "how the decoder sees the source", ATTENTIONS)
  feed: bool = option(False, "the decoder reads what it last attended to: input feeding")
  subwords: str = option("bpe", "what a text is cut into", KINDS)
  target_subwords: str = option("same", "what a target is cut into", ("same", *KINDS))
  vocabulary: int = option(4000, "how many of them", low=5)
  joint: bool = option(False, "source and target have one vocabulary and one table of vectors")
  copy: bool = option(False, "words of the source can be copied; needs --joint")
  coverage: float = option(0.0, "λ of the penalty on attending twice", low=0)
  lower: bool = option(False, "everything is written in lower case")
  width: int = option(128, "features of the embeddings", low=1)
  limit: int = option(100, "subwords of a longer text that are trained on", low=1)
  dropout: float = option(0.2, "rate at which features vanish, locked", **RATE)
  word_dropout: float = option(0.0, "rate at which words vanish", **RATE)
  smoothing: float = option(0.0, "label smoothing", **RATE)
  sampled: float = option(0.0, "rate of scheduled sampling", **RATE)
  beam: int = option(5, "hypotheses of beam search", low=1, aside=True)
  length_penalty: float = option(1.0, "α: longer texts gain; 0 for none", low=0, aside=True)
  coverage_penalty: float = option(
    0.0, "β: texts gain that attend to all there is; needs --attention=coverage", low=0, aside=True
  )
  block: int = option(0, "no so many subwords in a row are written twice", low=0, aside=True)
  longest: int = option(100, "subwords that are written, at most", low=1, aside=True)
  load: str = option(
    "",
    "folder of a finished run, whose model is used; or of more, A,B, which write together",
    aside=True,
  )

  @property
  def search(self) -> dict:
    """How a Rewriter shall search."""
    return dict(
      width=self.beam,
      length_penalty=self.length_penalty,
      coverage_penalty=self.coverage_penalty,
      block=self.block,
      steps=self.longest,
    )


def build(config: Rewriting, source: int, target: int) -> Translator:
  """The model alone, of so many words on either side."""
  cell = CELLS[config.cell](2 * config.hidden)
  try:
    made = ATTENTIONS[config.attention](config.hidden)
    writer = decoder(*[cell] * config.layers, attention=made, feed=config.feed)
  except ValueError as error:
    raise BadInput(f"--attention={config.attention} --hidden={config.hidden}: {error}") from None
  if config.joint and config.target_subwords not in ("same", config.subwords):
    raise BadInput(
      f"--joint needs one kind of subwords; got --subwords={config.subwords} and "
      f"--target_subwords={config.target_subwords}"
    )
  if config.copy and not (config.joint and made):
    raise BadInput("--copy needs --joint, for words to be the same on both sides, and an attention")
  if config.coverage_penalty and config.attention != "coverage":
    raise BadInput(f"--coverage_penalty needs --attention=coverage; got {config.attention}")
  reader = train_config.encoder(SimpleNamespace(**vars(config), bidirectional=True))
  table = embedding.trainable(target, config.width)
  return Translator(
    table if config.joint else embedding.trainable(source, config.width),
    table,
    reader,
    writer,
    full(target),
    config.dropout,
    config.word_dropout,
    config.copy,
    config.sampled,
  )


def prepare(config: Rewriting, text: pairs_data.Pairs):
  """The subwords of both sides, and the pairs as batches."""
  sides, kinds = list(zip(*text.train)), [config.subwords, config.target_subwords]
  kinds = [config.subwords if kind == "same" else kind for kind in kinds]
  cut = lambda side, kind: Subwords.train(side, config.vocabulary, kind, config.lower)
  joined = [cut(sides[0] + sides[1], kinds[0])] * 2 if config.joint else None
  source, target = joined or map(cut, sides, kinds)

  def batches(rows, size, limit=None, seed=None):
    ahead = [ended(source.encode(one)[:limit]) for one, _ in rows]
    after = [np.array([BEGIN, *target.encode(other)[:limit], END], np.int32) for _, other in rows]
    return Batches(ahead, None, size, buckets=6, seed=seed, targets=after)

  valid, test = (batches(rows, 2 * config.batch) for rows in (text.valid, text.test))
  train = batches(text.train, config.batch, config.limit, config.seed)
  return SimpleNamespace(source=source, target=target, train=train, valid=valid, test=test)


def rewriter(config: Rewriting, text: pairs_data.Pairs, score: str = "loss"):
  """What rewrites, and its scores: what --load names, or else what is trained now, chosen by a
  score on the validation part."""
  if config.load:
    loaded = load(config.load, type(config))
    if loaded.target.lower != config.lower:
      raise BadInput(f"--lower must be {loaded.target.lower}, as in training; got {config.lower}")
    return loaded, {"dataset": text.name, "loaded": config.load}
  training.mesh(config.batch, config.mesh)  # what devices cannot share is refused at once
  build(config, 5, 5)  # and flags that do not fit each other
  data = prepare(config, text)
  if config.beam > len(data.target):
    raise BadInput(f"--beam must be at most {len(data.target)}, the vocabulary; got {config.beam}")
  model = build(config, len(data.source), len(data.target))
  beside = {"subwords": {"source": data.source.to_json(), "target": data.target.to_json()}}
  task = tasks.rewriting(model, config.smoothing, config.coverage)
  how = dict(score=score, beside=beside)
  params, scores = runner.learn(config, task, data, text.name, "cosine", **how)
  return Rewriter(model, params, data.source, data.target), scores


def keep(out: str, rows, written):
  """Writes what was read, what is true, and what was written into OUT/written.jsonl."""
  if out:
    names = "source", "target", "written"
    lines = [dict(zip(names, (*row, one))) for row, one in zip(rows, written)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    runner.place(out, "written.jsonl").write_text(text, encoding="utf-8")


def bleu(written, references, lower: bool = False, order: int = 4) -> tuple[float, str]:
  """Corpus BLEU (Papineni et al. 2002) and its signature; references are a list for each text."""
  most = max(map(len, references))
  sides = [[[*own, *[None] * most][i] for own in references] for i in range(most)]
  # force: texts are as they are read, and their full stops may stand apart.
  metric = sacrebleu.BLEU(lowercase=lower, max_ngram_order=order, force=True)
  return metric.corpus_score(written, sides).score, str(metric.get_signature())


def asked(config: Rewriting, name: str) -> bool:
  """Whether what a loaded model writes for a text, the flag of that name, is all one asks for."""
  text = getattr(config, name)
  if text and not text.strip():
    raise BadInput(f"--{name} must be a text; got {text!r}")
  return bool(config.load and text)


def show(config: Rewriting, rewriter: Rewriter, text: str) -> dict:
  """Prints what is written for a text; with --out draws what it attended to."""
  (ids,) = rewriter.write([ended(rewriter.source.encode(text))], **config.search)
  written = rewriter.spell(text, ids)
  print(written)
  *pieces, α = rewriter.attention(text, ids)
  if config.out and max(α.shape) > DRAWN:
    logging.warning("what it attended to is not drawn: %d by %d pieces are too many", *α.shape)
  elif config.out and α.any():  # not without attention
    figures.heat(runner.figure(config.out, "attention.png"), *pieces, α)
  return {"written": written}


def load(out: str, Config, **changes) -> Rewriter:
  """What rewrites, of a run's --out, or of more, A,B; Config is its experiment's, and changes win.

  Raises:
    BadInput: no such run, or one of other subwords than the first.
  """
  names = out.split(",")
  runs = [runner.restore(Config, one, "subwords", **changes) for one in names]
  words = runs[0][0].beside["subwords"]
  for one, (saved, _) in zip(names, runs):
    if saved.beside["subwords"] != words:
      raise BadInput(f"what {out!r} names must have the same subwords; those of {one!r} are others")
  source, target = (Subwords.from_json(words[side]) for side in ("source", "target"))
  models = tuple(build(config, len(source), len(target)) for _, config in runs)
  params = tuple(saved.params for saved, _ in runs)
  model, params = (Ensemble(models), params) if names[1:] else (models[0], params[0])
  return Rewriter(model, params, source, target)

"""What translation, summaries and pronunciation share: flags, model, training, writing."""

import dataclasses
import json
import logging
from types import SimpleNamespace

import numpy as np
import sacrebleu

from experiments.common import runner, train_config
from experiments.common.train_config import CELLS, PROBABILITY, field_spec
from experiments.seq2seq import data as pairs_data
from rnnjax import attention, training
from rnnjax.analysis import figures
from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.files import DATASETS
from rnnjax.data.tokenizer import BOS, EOS, MODEL_TYPES, Tokenizer
from rnnjax.decoders import decoder
from rnnjax.models import embedding
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import Seq2Seq
from rnnjax.models.seq2seq_predictor import Seq2SeqPredictor, append_end
from rnnjax.output_layers import full_softmax
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

ATTENTIONS = {
  "none": lambda H: None,
  "dot": lambda H: attention.dot_attention(),
  "general": lambda H: attention.general_attention(),
  "additive": attention.additive_attention,
  "multi_head": lambda H: attention.multi_head_attention(4, H),
  "coverage": lambda H: attention.additive_attention(H, use_coverage=True),
}
MAX_PLOTTED_TOKENS = 200  # pieces of a text, at most, whose attention makes a picture


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig(train_config.TrainConfig):
  dataset: str = field_spec("auto", "which pairs of texts", DATASETS)
  cell: str = "gru"
  batch_size: int = 32
  learning_rate: float = 3e-3
  epochs: int = 12
  attention: str = field_spec("general", "how the decoder sees the source", ATTENTIONS)
  input_feeding: bool = field_spec(
    False, "the decoder reads what it last attended to: input feeding"
  )
  tokenizer: str = field_spec("bpe", "what a text is cut into", MODEL_TYPES)
  target_tokenizer: str = field_spec("same", "what a target is cut into", ("same", *MODEL_TYPES))
  vocab_size: int = field_spec(4000, "how many of them", min_value=5)
  shared_vocab: bool = field_spec(
    False, "source and target have one vocabulary and one table of vectors"
  )
  copy_attention: bool = field_spec(
    False, "words of the source can be copied; needs --shared_vocab"
  )
  coverage_weight: float = field_spec(0.0, "λ of the penalty on attending twice", min_value=0)
  lowercase: bool = field_spec(False, "everything is written in lower case")
  embed_dim: int = field_spec(128, "features of the embeddings", min_value=1)
  max_train_length: int = field_spec(
    100, "subwords of a longer text that are trained on", min_value=1
  )
  dropout: float = field_spec(0.2, "rate at which features vanish, locked", **PROBABILITY)
  word_dropout: float = field_spec(0.0, "rate at which words vanish", **PROBABILITY)
  label_smoothing: float = field_spec(0.0, "label smoothing", **PROBABILITY)
  scheduled_sampling_prob: float = field_spec(0.0, "rate of scheduled sampling", **PROBABILITY)
  beam_size: int = field_spec(5, "hypotheses of beam search", min_value=1, affects_training=False)
  length_penalty: float = field_spec(
    1.0, "α: longer texts gain; 0 for none", min_value=0, affects_training=False
  )
  coverage_penalty: float = field_spec(
    0.0,
    "β: texts gain that attend to all there is; needs --attention=coverage",
    min_value=0,
    affects_training=False,
  )
  no_repeat_ngram_size: int = field_spec(
    0, "no so many subwords in a row are written twice", min_value=0, affects_training=False
  )
  max_length: int = field_spec(
    100, "subwords that are written, at most", min_value=1, affects_training=False
  )
  ensemble: str = field_spec(
    "",
    "folder of a finished run, whose model is used; or of more, A,B, which write together",
    affects_training=False,
  )

  @property
  def search_options(self) -> dict:
    """How a Rewriter shall search."""
    return dict(
      width=self.beam,
      length_penalty=self.length_penalty,
      coverage_penalty=self.coverage_penalty,
      block=self.block,
      steps=self.longest,
    )


def build(config: Seq2SeqConfig, source_vocab_size: int, target_vocab_size: int) -> Seq2Seq:
  """The model alone, of so many words on either side."""
  cell = CELLS[config.cell](2 * config.hidden_size)
  try:
    made = ATTENTIONS[config.attention](config.hidden_size)
    writer = decoder(
      *[cell] * config.num_layers, attention=made, input_feeding=config.input_feeding
    )
  except ValueError as error:
    raise InvalidInputError(
      f"--attention={config.attention} --hidden_size={config.hidden_size}: {error}"
    ) from None
  if config.shared_vocab and config.target_tokenizer not in ("same", config.tokenizer):
    raise InvalidInputError(
      f"--shared_vocab needs one kind of subwords; got --tokenizer={config.tokenizer} and "
      f"--target_tokenizer={config.target_tokenizer}"
    )
  if config.copy_attention and not (config.shared_vocab and made):
    raise InvalidInputError(
      "--copy_attention needs --shared_vocab, for words to be the same on both sides, and an attention"
    )
  if config.coverage_penalty and config.attention != "coverage":
    raise InvalidInputError(
      f"--coverage_penalty needs --attention=coverage; got {config.attention}"
    )
  reader = train_config.build_encoder(SimpleNamespace(**vars(config), bidirectional=True))
  table = embedding.trainable_embedding(target_vocab_size, config.embed_dim)
  return Seq2Seq(
    table
    if config.shared_vocab
    else embedding.trainable_embedding(source_vocab_size, config.embed_dim),
    table,
    reader,
    writer,
    full_softmax(target_vocab_size),
    config.dropout,
    config.word_dropout,
    config.copy_attention,
    config.scheduled_sampling_prob,
  )


def prepare(config: Seq2SeqConfig, text: pairs_data.PairDataset):
  """The subwords of both sides, and the pairs as batches."""
  sides, kinds = list(zip(*text.train)), [config.tokenizer, config.target_tokenizer]
  kinds = [config.tokenizer if kind == "same" else kind for kind in kinds]
  cut = lambda side, kind: Tokenizer.train(side, config.vocab_size, kind, config.lowercase)
  joined = [cut(sides[0] + sides[1], kinds[0])] * 2 if config.shared_vocab else None
  source, target = joined or map(cut, sides, kinds)

  def batches(rows, batch_size, max_length=None, seed=None):
    ahead = [append_end(source.encode(one)[:max_length]) for one, _ in rows]
    after = [
      np.array([BOS, *target.encode(other)[:max_length], EOS], np.int32) for _, other in rows
    ]
    return BucketedBatches(ahead, None, batch_size, max_buckets=6, seed=seed, targets=after)

  valid, test = (batches(rows, 2 * config.batch_size) for rows in (text.valid, text.test))
  train = batches(text.train, config.batch_size, config.max_train_length, config.seed)
  return SimpleNamespace(source=source, target=target, train=train, valid=valid, test=test)


def load_or_train(config: Seq2SeqConfig, text: pairs_data.PairDataset, score: str = "loss"):
  """What rewrites, and its scores: what --ensemble names, or else what is trained now, chosen by a
  score on the validation part."""
  if config.ensemble:
    loaded = load(config.ensemble, type(config))
    if loaded.target_tokenizer.lowercase != config.lowercase:
      raise InvalidInputError(
        f"--lowercase must be {loaded.target_tokenizer.lowercase}, as in training; got {config.lowercase}"
      )
    return loaded, {"dataset": text.name, "loaded": config.ensemble}
  training.make_mesh(config.batch_size, config.mesh)  # what devices cannot share is refused at once
  build(config, 5, 5)  # and flags that do not fit each other
  data = prepare(config, text)
  if config.beam_size > len(data.target):
    raise InvalidInputError(
      f"--beam_size must be at most {len(data.target)}, the vocabulary; got {config.beam_size}"
    )
  model = build(config, len(data.source), len(data.target))
  beside = {"subwords": {"source": data.source.to_json(), "target": data.target.to_json()}}
  task = tasks.seq2seq_task(model, config.label_smoothing, config.coverage_weight)
  how = dict(score=score, beside=beside)
  params, scores = runner.train_and_test(config, task, data, text.name, "cosine", **how)
  return Seq2SeqPredictor(model, params, data.source, data.target), scores


def write_predictions(workdir: str, rows, predictions):
  """Writes what was read, what is true, and what was written into OUT/written.jsonl."""
  if workdir:
    names = "source", "target", "written"
    lines = [dict(zip(names, (*row, one))) for row, one in zip(rows, predictions)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    runner.run_file(workdir, "written.jsonl").write_text(text, encoding="utf-8")


def corpus_bleu(
  predictions, references, lowercase: bool = False, max_order: int = 4
) -> tuple[float, str]:
  """Corpus BLEU (Papineni et al. 2002) and its signature; references are a list for each text."""
  most = max(map(len, references))
  sides = [[[*own, *[None] * most][i] for own in references] for i in range(most)]
  # force: texts are as they are read, and their full stops may stand apart.
  metric = sacrebleu.BLEU(lowercase=lowercase, max_ngram_order=max_order, force=True)
  return metric.corpus_score(predictions, sides).score, str(metric.get_signature())


def inference_only(config: Seq2SeqConfig, name: str) -> bool:
  """Whether what a loaded model writes for a text, the flag of that name, is all one asks for."""
  text = getattr(config, name)
  if text and not text.strip():
    raise InvalidInputError(f"--{name} must be a text; got {text!r}")
  return bool(config.ensemble and text)


def print_prediction(config: Seq2SeqConfig, predictor: Seq2SeqPredictor, text: str) -> dict:
  """Prints what is written for a text; with --workdir draws what it attended to."""
  (ids,) = predictor.generate(
    [append_end(predictor.source_tokenizer.encode(text))], **config.search_options
  )
  written = predictor.decode(text, ids)
  print(written)
  *pieces, α = predictor.tokens_and_attention(text, ids)
  if config.workdir and max(α.shape) > MAX_PLOTTED_TOKENS:
    logging.warning("what it attended to is not drawn: %d by %d pieces are too many", *α.shape)
  elif config.workdir and α.any():  # not without attention
    figures.plot_heatmap(runner.figure_file(config.workdir, "attention.png"), *pieces, α)
  return {"written": written}


def load(workdirs: str, config_class, **overrides) -> Seq2SeqPredictor:
  """What rewrites, of a run's --workdir, or of more, A,B; Config is its experiment's, and changes win.

  Raises:
    BadInput: no such run, or one of other subwords than the first.
  """
  names = workdirs.split(",")
  runs = [runner.load_run(config_class, one, "subwords", **overrides) for one in names]
  words = runs[0][0].extras["subwords"]
  for one, (saved, _) in zip(names, runs):
    if saved.extras["subwords"] != words:
      raise InvalidInputError(
        f"what {workdirs!r} names must have the same subwords; those of {one!r} are others"
      )
  source, target = (Tokenizer.from_json(words[side]) for side in ("source", "target"))
  models = tuple(build(config, len(source), len(target)) for _, config in runs)
  params = tuple(saved.params for saved, _ in runs)
  model, params = (Ensemble(models), params) if names[1:] else (models[0], params[0])
  return Seq2SeqPredictor(model, params, source, target)

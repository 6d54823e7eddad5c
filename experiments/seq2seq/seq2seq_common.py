"""Flags, model, training and decoding of the experiments with text pairs, such as `translate`."""

import dataclasses
import json
import logging
from types import SimpleNamespace

import numpy as np
import sacrebleu

from experiments.common import runner, train_config
from experiments.common.cells import make_cell
from experiments.common.train_config import PROBABILITY, field_spec
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
MAX_PLOTTED_TOKENS = 200  # attention is plotted only if source and output are at most this long


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig(train_config.TrainConfig):
  """Configuration of a sequence-to-sequence experiment; each field is a command-line flag."""

  dataset: str = field_spec("auto", "source of the text pairs", DATASETS)
  cell: str = "gru"
  batch_size: int = 32
  learning_rate: float = 3e-3
  epochs: int = 12
  # Model
  attention: str = field_spec("general", "attention of the decoder to the source", ATTENTIONS)
  input_feeding: bool = field_spec(
    False, "feed the attention output of each step to the decoder's next step"
  )
  tokenizer: str = field_spec("bpe", "tokenization of the source", MODEL_TYPES)
  target_tokenizer: str = field_spec(
    "same", "tokenization of the target; same uses the value of --tokenizer", ("same", *MODEL_TYPES)
  )
  vocab_size: int = field_spec(4000, "maximum size of each vocabulary, in tokens", min_value=5)
  shared_vocab: bool = field_spec(
    False, "share one vocabulary and one embedding table between source and target"
  )
  copy_attention: bool = field_spec(
    False, "use a pointer-generator, which can copy source tokens; needs --shared_vocab"
  )
  coverage_weight: float = field_spec(
    0.0, "weight λ of the coverage loss, which penalizes repeated attention", min_value=0
  )
  lowercase: bool = field_spec(False, "lowercase all text")
  embed_dim: int = field_spec(128, "embedding size", min_value=1)
  # Training
  max_train_length: int = field_spec(
    100, "maximum tokens of a training text; longer texts are truncated", min_value=1
  )
  dropout: float = field_spec(0.2, "variational dropout rate of features", **PROBABILITY)
  word_dropout: float = field_spec(0.0, "dropout rate of whole input tokens", **PROBABILITY)
  label_smoothing: float = field_spec(
    0.0, "probability mass that label smoothing spreads over the vocabulary", **PROBABILITY
  )
  scheduled_sampling_prob: float = field_spec(
    0.0, "probability that the decoder reads its own prediction in training", **PROBABILITY
  )
  # Decoding
  beam_size: int = field_spec(5, "hypotheses of beam search", min_value=1, affects_training=False)
  length_penalty: float = field_spec(
    1.0,
    "exponent α of the length penalty; larger favors longer outputs, 0 disables it",
    min_value=0,
    affects_training=False,
  )
  coverage_penalty: float = field_spec(
    0.0,
    "weight β of the coverage score in beam search; needs --attention=coverage; 0 disables it",
    min_value=0,
    affects_training=False,
  )
  no_repeat_ngram_size: int = field_spec(
    0,
    "no n-gram of this size may occur twice in an output; 0 disables it",
    min_value=0,
    affects_training=False,
  )
  max_length: int = field_spec(
    100, "maximum output length in tokens", min_value=1, affects_training=False
  )
  # Inference
  predict: str = field_spec(
    "",
    "source text from which the saved model of --workdir or --ensemble predicts the target; empty "
    "trains",
    affects_training=False,
  )
  ensemble: str = field_spec(
    "",
    "--workdir of each finished run of an ensemble, separated by commas; their probabilities are "
    "averaged; empty trains one model",
    affects_training=False,
  )

  @property
  def search_options(self) -> dict:
    """The keyword arguments of `Seq2SeqPredictor.generate`."""
    return dict(
      beam_size=self.beam_size,
      length_penalty=self.length_penalty,
      coverage_penalty=self.coverage_penalty,
      no_repeat_ngram_size=self.no_repeat_ngram_size,
      max_length=self.max_length,
    )


def build(config: Seq2SeqConfig, source_vocab_size: int, target_vocab_size: int) -> Seq2Seq:
  """Build the encoder-decoder model that a configuration specifies.

  Raises:
    InvalidInputError: the flags of the model contradict each other.
  """
  # The encoder is bidirectional, so the decoder's state is twice as wide as one direction.
  cell = make_cell(config.cell, 2 * config.hidden_size)
  try:
    attend = ATTENTIONS[config.attention](config.hidden_size)
    decoder_layers = decoder(
      *[cell] * config.num_layers, attention=attend, input_feeding=config.input_feeding
    )
  except ValueError as error:
    raise InvalidInputError(
      f"--attention={config.attention} --hidden_size={config.hidden_size}: {error}"
    ) from None
  if config.shared_vocab and config.target_tokenizer not in ("same", config.tokenizer):
    raise InvalidInputError(
      "--shared_vocab needs the same tokenizer for source and target; got "
      f"--tokenizer={config.tokenizer} and --target_tokenizer={config.target_tokenizer}"
    )
  if config.copy_attention and not (config.shared_vocab and attend):
    raise InvalidInputError(
      "--copy_attention needs --shared_vocab, so that source and target ids mean the same tokens, "
      f"and an --attention other than none; got --shared_vocab={config.shared_vocab} and "
      f"--attention={config.attention}"
    )
  if config.coverage_penalty and config.attention != "coverage":
    raise InvalidInputError(
      f"--coverage_penalty needs --attention=coverage; got {config.attention}"
    )
  encoder = train_config.build_encoder(SimpleNamespace(**vars(config), bidirectional=True))
  target_table = embedding.trainable_embedding(target_vocab_size, config.embed_dim)
  if config.shared_vocab:
    source_table = target_table
  else:
    source_table = embedding.trainable_embedding(source_vocab_size, config.embed_dim)
  return Seq2Seq(
    source_table,
    target_table,
    encoder,
    decoder_layers,
    full_softmax(target_vocab_size),
    config.dropout,
    config.word_dropout,
    config.copy_attention,
    config.scheduled_sampling_prob,
  )


def prepare(config: Seq2SeqConfig, text: pairs_data.PairDataset):
  """Train the tokenizers and batch the text pairs.

  Returns:
    A namespace with the tokenizers `source` and `target` and the batches of the splits `train`,
    `valid` and `test`.
  """
  source_texts, target_texts = zip(*text.train)
  source_type, target_type = config.tokenizer, config.target_tokenizer
  if target_type == "same":
    target_type = source_type

  def train_tokenizer(texts, model_type):
    return Tokenizer.train(texts, config.vocab_size, model_type, config.lowercase)

  if config.shared_vocab:
    source = target = train_tokenizer(source_texts + target_texts, source_type)
  else:
    source = train_tokenizer(source_texts, source_type)
    target = train_tokenizer(target_texts, target_type)

  def batches(rows, batch_size, max_length=None, seed=None):
    source_ids = [append_end(source.encode(text)[:max_length]) for text, _ in rows]
    target_ids = [
      np.array([BOS, *target.encode(text)[:max_length], EOS], np.int32) for _, text in rows
    ]
    return BucketedBatches(
      source_ids, None, batch_size, max_buckets=6, seed=seed, targets=target_ids
    )

  return SimpleNamespace(
    source=source,
    target=target,
    train=batches(text.train, config.batch_size, config.max_train_length, config.seed),
    valid=batches(text.valid, 2 * config.batch_size),
    test=batches(text.test, 2 * config.batch_size),
  )


def load_or_train(
  config: Seq2SeqConfig, text: pairs_data.PairDataset, metric: str = "loss"
) -> tuple[Seq2SeqPredictor, dict]:
  """Load the ensemble of --ensemble, or train and test one model if --ensemble is empty.

  Args:
    config: the configuration.
    text: the text pairs.
    metric: "loss" or "accuracy", the validation metric by which the best checkpoint is selected.

  Returns:
    The predictor and a dict of the test scores. For an ensemble, the dict contains only "dataset"
    and "ensemble", the value of --ensemble.

  Raises:
    InvalidInputError: flags contradict each other, or a saved run was trained with other flags.
  """
  if config.ensemble:
    predictor = load(config.ensemble, type(config))
    if predictor.target_tokenizer.lowercase != config.lowercase:
      raise InvalidInputError(
        f"--lowercase must be {predictor.target_tokenizer.lowercase}, as in training; got "
        f"{config.lowercase}"
      )
    return predictor, {"dataset": text.name, "ensemble": config.ensemble}
  # Training the tokenizers takes minutes on a large corpus. Therefore the batch size and the flags
  # of the model are checked first. The vocabulary size 5 does not affect this check.
  training.make_mesh(config.batch_size, config.mesh)
  build(config, 5, 5)
  data = prepare(config, text)
  if config.beam_size > len(data.target):
    raise InvalidInputError(
      f"--beam_size must be at most {len(data.target)}, the size of the vocabulary; got "
      f"{config.beam_size}"
    )
  model = build(config, len(data.source), len(data.target))
  task = tasks.seq2seq_task(model, config.label_smoothing, config.coverage_weight)
  extras = {"subwords": {"source": data.source.to_json(), "target": data.target.to_json()}}
  params, scores = runner.train_and_test(
    config, task, data, text.name, "cosine", metric=metric, extras=extras
  )
  return Seq2SeqPredictor(model, params, data.source, data.target), scores


def write_predictions(workdir: str, rows: pairs_data.TextPairs, predictions: list[str]):
  """Write one JSON object with "source", "target" and "written" (prediction) per row.

  The file is WORKDIR/written.jsonl. If `workdir` is empty, no file is written.
  """
  if not workdir:
    return
  lines = [
    json.dumps({"source": source, "target": target, "written": prediction}, ensure_ascii=False)
    for (source, target), prediction in zip(rows, predictions)
  ]
  path = runner.run_file(workdir, "written.jsonl")
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def corpus_bleu(
  predictions: list[str],
  references: list[list[str]],
  lowercase: bool = False,
  max_order: int = 4,
) -> tuple[float, str]:
  """Return the corpus BLEU (Papineni et al. 2002) in percent and the signature of sacrebleu.

  Args:
    predictions: the predicted text of each row.
    references: one or more reference texts of each row.
    lowercase: whether to compare in lower case.
    max_order: the maximum n-gram order.
  """
  # sacrebleu expects a list for each index i. The list contains the i-th reference of each row, or
  # None for a row with fewer references.
  most = max(map(len, references))
  padded = [row + [None] * (most - len(row)) for row in references]
  # `force` suppresses the warning that texts with separated full stops look tokenized. Texts are
  # scored as they are in the files.
  metric = sacrebleu.BLEU(lowercase=lowercase, max_ngram_order=max_order, force=True)
  score = metric.corpus_score(predictions, [*map(list, zip(*padded))]).score
  return score, str(metric.get_signature())


def predict(config: Seq2SeqConfig) -> dict:
  """Load a saved model, and print and return its prediction for the text --predict.

  The model is the ensemble of --ensemble or, if --ensemble is empty, the model of --workdir.

  Raises:
    InvalidInputError: --predict is blank, or both --ensemble and --workdir are empty.
  """
  if not config.predict.strip():
    raise InvalidInputError(f"--predict must be a text; got {config.predict!r}")
  workdirs = config.ensemble or config.workdir
  if not workdirs:
    raise InvalidInputError("--predict needs --workdir or --ensemble, the folder of a finished run")
  return print_prediction(config, load(workdirs, type(config)), config.predict)


def print_prediction(config: Seq2SeqConfig, predictor: Seq2SeqPredictor, text: str) -> dict:
  """Print and return the prediction for a text; if --workdir is set, also plot the attention."""
  (ids,) = predictor.generate(
    [append_end(predictor.source_tokenizer.encode(text))], **config.search_options
  )
  prediction = predictor.decode(text, ids)
  print(prediction)
  source_tokens, output_tokens, α = predictor.tokens_and_attention(text, ids)
  if config.workdir and max(α.shape) > MAX_PLOTTED_TOKENS:
    logging.warning(
      "no attention figure: %d x %d tokens are more than %d",
      *α.shape,
      MAX_PLOTTED_TOKENS,
    )
  elif config.workdir and α.any():  # α is all 0 for a model without attention
    path = runner.figure_file(config.workdir, "attention.png")
    figures.plot_heatmap(path, source_tokens, output_tokens, α)
  return {"written": prediction}


def load(workdirs: str, config_class, **overrides) -> Seq2SeqPredictor:
  """Load the predictor of one saved run, or the ensemble of several saved runs.

  Args:
    workdirs: the --workdir of one or more runs, separated by commas.
    config_class: the `Config` class of the experiment that trained the runs.
    **overrides: configuration fields that replace the saved fields.

  Raises:
    InvalidInputError: a folder contains no finished run of the experiment, or the runs have
      different vocabularies.
  """
  names = workdirs.split(",")
  runs = [runner.load_run(config_class, name, "subwords", **overrides) for name in names]
  subwords = runs[0][0].extras["subwords"]
  for name, (saved, _) in zip(names, runs):
    if saved.extras["subwords"] != subwords:
      raise InvalidInputError(
        f"the runs {workdirs!r} must have the same vocabulary; that of {name!r} differs from that "
        f"of {names[0]!r}. Were they trained on the same data with the same --tokenizer?"
      )
  source, target = (Tokenizer.from_json(subwords[side]) for side in ("source", "target"))
  models = tuple(build(config, len(source), len(target)) for _, config in runs)
  params = tuple(saved.params for saved, _ in runs)
  if len(runs) == 1:
    return Seq2SeqPredictor(models[0], params[0], source, target)
  return Seq2SeqPredictor(Ensemble(models), params, source, target)

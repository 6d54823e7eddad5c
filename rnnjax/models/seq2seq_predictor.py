"""Inference with a trained sequence-to-sequence model and its tokenizers."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.tokenizer import BOS, EOS, Tokenizer
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.decoding.beam_search import beam_search
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.types import Array, InvalidInputError, Params

STATIC_SEARCH_ARGS = ("beam_size", "max_length", "no_repeat_ngram_size")
BUCKET_SIZE = 16  # lengths are padded to multiples of this, so that few shapes are compiled


class Seq2SeqPredictor(NamedTuple):
  """A sequence-to-sequence model with its parameters and tokenizers.

      predictor = translate.load("runs/ende")
      predictor(["Two dogs play in the snow."])[0]

  Attributes:
    model: the model, or an `Ensemble`.
    params: the parameters of the model.
    source_tokenizer: tokenizer of the input texts.
    target_tokenizer: tokenizer of the output texts.
  """

  model: Seq2Seq | Ensemble
  params: Params
  source_tokenizer: Tokenizer
  target_tokenizer: Tokenizer

  def __call__(self, texts: Sequence[str], **options) -> list[str]:
    """Return the best output for each text.

    Args:
      texts: the input texts.
      **options: as for `generate`.

    Raises:
      InvalidInputError: `texts` is empty, a text is blank, or beam_size is larger than the target
        vocabulary.
    """
    if not texts or not all(text.strip() for text in texts):
      raise InvalidInputError("texts must be one or more texts that are not empty")
    outputs = self.generate(
      [append_end(self.source_tokenizer.encode(text)) for text in texts], **options
    )
    return [self.decode(text, ids) for text, ids in zip(texts, outputs)]

  def generate(
    self,
    sources: Sequence[np.ndarray],
    *,
    beam_size: int = 5,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    no_repeat_ngram_size: int = 0,
    max_length: int = 100,
    batch_size: int = 50,
  ) -> list[np.ndarray]:
    """Return the best output of beam search for each source, as ids [T] without the end token.

    Args:
      sources: source sequences [S, ...]; sequences of similar length share a batch.
      beam_size, length_penalty, coverage_penalty, no_repeat_ngram_size, max_length: as for
        `beam_search`.
      batch_size: number of sources that are decoded at once.

    Raises:
      InvalidInputError: beam_size is larger than the target vocabulary.
    """
    if beam_size > len(self.target_tokenizer):
      raise InvalidInputError(
        f"beam_size must be at most the vocabulary size {len(self.target_tokenizer)}; "
        f"got {beam_size}"
      )
    outputs: list = [None] * len(sources)
    for batch in BucketedBatches(sources, range(len(sources)), min(batch_size, len(sources))):
      best = jax.device_get(
        beam_search_batch(
          self.model,
          self.params,
          batch,
          beam_size=beam_size,
          max_length=max_length,
          length_penalty=length_penalty,
          coverage_penalty=coverage_penalty,
          no_repeat_ngram_size=no_repeat_ngram_size,
        )
      )
      tokens, lengths = best["tokens"], best["lengths"]
      for b in np.flatnonzero(batch["weights"]):
        outputs[batch["labels"][b]] = tokens[: lengths[b], b]
    return outputs

  def decode(self, text: str, output_ids: np.ndarray) -> str:
    """Return the output text for `output_ids`, which the model generated from `text`.

    If the model is a pointer-generator, each unknown output token is replaced by the unknown source
    piece with the highest attention weight.
    """
    if not (self.model.copy_attention and UNKNOWN in output_ids):
      return self.target_tokenizer.decode(output_ids)
    source = append_end(self.source_tokenizer.encode(text))
    unknown, copied = (np.flatnonzero(ids == UNKNOWN) for ids in (source, output_ids))
    if not len(unknown):
      return self.target_tokenizer.decode(output_ids)
    α = self.attention_weights(source, output_ids)
    positions = unknown[α[copied][:, unknown].argmax(1)]
    pieces = self.source_tokenizer.tokenize(text)
    return self.target_tokenizer.decode(output_ids, [pieces[position] for position in positions])

  def tokens_and_attention(
    self, text: str, output_ids: np.ndarray
  ) -> tuple[list[str], list[str], np.ndarray]:
    """Return the S source pieces, the T output pieces, and the attention weights α [T, S].

    Both lists of pieces end with "⏎", which represents the end token.
    """
    pieces = (
      self.source_tokenizer.tokenize(text),
      [self.target_tokenizer.tokens[i] for i in output_ids],
    )
    α = self.attention_weights(append_end(self.source_tokenizer.encode(text)), output_ids)
    return *([*side, "⏎"] for side in pieces), α

  def attention_weights(self, source: np.ndarray, output_ids: np.ndarray) -> np.ndarray:
    """Return the attention weights α [T, S] over the source ids [S].

    The T steps predict the output ids and then the end token.
    """
    decoder_inputs = np.array([BOS, *output_ids], np.int32)
    source_batch, input_batch = (
      np.pad(ids, (0, -len(ids) % BUCKET_SIZE))[:, None] for ids in (source, decoder_inputs)
    )
    lengths = np.array([len(source)])
    α = _attention_weights(self.model, self.params, source_batch, lengths, input_batch)
    return np.asarray(α[: len(decoder_inputs), : len(source), 0])


def append_end(ids: np.ndarray) -> np.ndarray:
  """Return the ids of a source with the end token appended."""
  return np.append(ids, EOS).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _attention_weights(
  model: Seq2Seq | Ensemble, params: Params, source: Array, lengths: Array, decoder_inputs: Array
):
  """Return α [T, S, B] for a source [S, B] and decoder inputs [T, B]."""
  inputs = source, lengths, decoder_inputs
  return model.apply({"params": params}, *inputs, method="attention_weights")


@functools.partial(jax.jit, static_argnums=0, static_argnames=STATIC_SEARCH_ARGS)
def beam_search_batch(
  model: Seq2Seq | Ensemble,
  params: Params,
  batch: dict,
  *,
  beam_size: int,
  max_length: int,
  no_repeat_ngram_size: int,
  length_penalty: float = 0.0,
  coverage_penalty: float = 0.0,
) -> dict[str, Array]:
  """Return the best output of beam search for each source of a batch.

  `batch` is {"tokens": [S, B], "lengths": [B]}. The other arguments are as for `beam_search`. The
  coverage penalty is ignored if the model's attention has no coverage.

  Returns:
    {"tokens": [T, B], "lengths": [B], "log_p": [B]}.
  """
  tokens, lengths = batch["tokens"], batch["lengths"]
  memory, carry = model.apply({"params": params}, tokens, lengths, method="encode")
  coverage_fn = functools.partial(model.coverage_score, memory)
  hypotheses = beam_search(
    model.predict_next,
    EncodedSource(params, tokens, memory),
    carry,
    jnp.full_like(lengths, BOS),
    beam_size=beam_size,
    max_length=max_length,
    eos_id=EOS,
    length_penalty=length_penalty,
    no_repeat_ngram_size=no_repeat_ngram_size,
    coverage_fn=None if coverage_fn(carry) is None else coverage_fn,
    coverage_penalty=coverage_penalty,
  )
  return {name: getattr(hypotheses, name)[0] for name in ("tokens", "lengths", "log_p")}

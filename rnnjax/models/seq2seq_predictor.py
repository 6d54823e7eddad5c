"""A trained translator that one can ask."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.data.bucketed_batches import BucketedBatches
from rnnjax.data.tokenizer import BOS, EOS, Tokenizer
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.decoding import beam_search
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.types import Array, InvalidInputError, Params

STATIC_SEARCH_ARGS = ("beam_size", "max_length", "no_repeat_ngram_size")
BUCKET_SIZE = 16  # what attention is looked at is padded to multiples of, so that few are compiled


class Seq2SeqPredictor(NamedTuple):
  """A translator, its parameters, and its subwords.

      rewriter = translate.load("runs/ende")
      rewriter(["Two dogs play in the snow."])[0]

  Attributes:
    model, params: what reads and writes; an `Ensemble`, too.
    source, target: texts and ids.
  """

  model: Seq2Seq | Ensemble
  params: Params
  source_tokenizer: Tokenizer
  target_tokenizer: Tokenizer

  def __call__(self, texts: Sequence[str], **options) -> list[str]:
    """What is written for each text; how as for `write`.

    Raises:
      BadInput: no text, an empty one, or a beam wider than the vocabulary.
    """
    if not texts or not all(text.strip() for text in texts):
      raise InvalidInputError("there must be a text, and none may be empty")
    written = self.generate(
      [append_end(self.source_tokenizer.encode(text)) for text in texts], **options
    )
    return [self.decode(text, ids) for text, ids in zip(texts, written)]

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
    """The ids [T] of the best that beam search finds for each source, an array [S, ...], of at most
    so many steps; arguments as there.

    Raises:
      BadInput: a beam wider than the vocabulary.
    """
    if beam_size > len(self.target_tokenizer):
      raise InvalidInputError(
        f"the beam must be at most {len(self.target_tokenizer)}, the vocabulary; got {beam_size}"
      )
    written: list = [None] * len(sources)
    for made in BucketedBatches(sources, range(len(sources)), min(batch_size, len(sources))):
      found = jax.device_get(
        beam_search_batch(
          self.model,
          self.params,
          made,
          beam_size=beam_size,
          max_length=max_length,
          length_penalty=length_penalty,
          coverage_penalty=coverage_penalty,
          no_repeat_ngram_size=no_repeat_ngram_size,
        )
      )
      tokens, lengths = found["tokens"], found["lengths"]
      for b in np.flatnonzero(made["weights"]):
        written[made["labels"][b]] = tokens[: lengths[b], b]
    return written

  def decode(self, text: str, output_ids: np.ndarray) -> str:
    """The text of ids written for a text; what a model that copies takes of the unknown, from where
    it attended most, is spelt as it stands there."""
    if not (self.model.copy_attention and UNKNOWN in output_ids):
      return self.target_tokenizer.decode(output_ids)
    source = append_end(self.source_tokenizer.encode(text))
    there, copied = (np.flatnonzero(ids == UNKNOWN) for ids in (source, output_ids))
    if not len(there):
      return self.target_tokenizer.decode(output_ids)
    places = there[self.attention_weights(source, output_ids)[copied][:, there].argmax(1)]
    pieces = self.source_tokenizer.tokenize(text)
    return self.target_tokenizer.decode(output_ids, [pieces[place] for place in places])

  def tokens_and_attention(
    self, text: str, output_ids: np.ndarray
  ) -> tuple[list[str], list[str], np.ndarray]:
    """The pieces of a text and those that were written, and how much each of these attends to each
    of those. α [T, S]"""
    pieces = (
      self.source_tokenizer.tokenize(text),
      [self.target_tokenizer.tokens[i] for i in output_ids],
    )
    α = self.attention_weights(append_end(self.source_tokenizer.encode(text)), output_ids)
    return *([*some, "⏎"] for some in pieces), α

  def attention_weights(self, source: np.ndarray, output_ids: np.ndarray) -> np.ndarray:
    """α [T, S]: how much each written id, and the end, attends to each place of a source."""
    read = np.array([BOS, *output_ids], np.int32)
    pad = lambda ids: np.pad(ids, (0, -len(ids) % BUCKET_SIZE))[:, None]
    α = _attention_weights(self.model, self.params, pad(source), np.array([len(source)]), pad(read))
    return np.asarray(α[: len(read), : len(source), 0])


def append_end(ids: np.ndarray) -> np.ndarray:
  """The ids of a source, with what ends it."""
  return np.append(ids, EOS).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _attention_weights(
  model: Seq2Seq | Ensemble, params: Params, source: Array, lengths: Array, decoder_inputs: Array
):
  """α [T, S, B] where source [S, B] was given, and [T, B] are read of what is written."""
  return model.apply({"params": params}, source, lengths, decoder_inputs, method="look")


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
  """The best text that beam search finds for each source of a batch: its "tokens" [T, B], their
  number "lengths" [B] and "log_p" [B]; arguments as for `beam`, whose coverage counts where the
  model's attention keeps it."""
  tokens, lengths = batch["tokens"], batch["lengths"]
  memory, carry = model.apply({"params": params}, tokens, lengths, method="remember")
  covered = functools.partial(model.coverage_score, memory)
  found = beam_search(
    model.predict_next,
    EncodedSource(params, tokens, memory),
    carry,
    jnp.full_like(lengths, BOS),
    width=beam_size,
    steps=max_length,
    end=EOS,
    length_penalty=length_penalty,
    block=no_repeat_ngram_size,
    coverage=None if covered(carry) is None else covered,
    coverage_penalty=coverage_penalty,
  )
  return {name: getattr(found, name)[0] for name in ("tokens", "lengths", "log_p")}

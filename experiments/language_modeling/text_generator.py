"""Text generation with a trained language model."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from rnnjax import generate, make_sampler
from rnnjax.data.vocabulary import Vocabulary, tokenize_lower
from rnnjax.models.language_model import LanguageModel
from rnnjax.types import InvalidInputError, Params

# Prompts are padded to this length times a power of two, so that few programs are compiled.
BUCKET_SIZE = 16


@functools.partial(jax.jit, static_argnums=0)
def _predict_next(model, params, tokens, lengths):
  return model.predict_next(params, tokens, lengths)


class TextGenerator(NamedTuple):
  """A trained language model that generates text.

      generator = char_lm.load("runs/shakespeare")
      print(generator.generate("ROMEO:", 500, temperature=0.8)[0])

  Attributes:
    model: the language model.
    params: the parameters of the model.
    vocabulary: the mapping between symbols and token ids.
    separator: the string between two symbols: "" for characters, " " for words.
    byte_level: whether the symbols are bytes. If true, prompts and texts are UTF-8, and the last
      character of a generated text may be incomplete.
  """

  model: LanguageModel
  params: Params
  vocabulary: Vocabulary
  separator: str = ""
  byte_level: bool = False

  def generate(
    self,
    prompt: str,
    length: int,
    *,
    num_samples: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
  ) -> list[str]:
    """Return continuations of a prompt, without the prompt.

    Args:
      prompt: the text to continue.
      length: the number of symbols of each continuation.
      num_samples: the number of continuations.
      seed: random seed of the sampling.
      temperature: sampling temperature; 0 takes the most probable symbol.
      top_k: sample among the k most probable symbols; None disables it.
      top_p: sample among the most probable symbols with this total probability; 1 disables it.

    Raises:
      InvalidInputError: the prompt is empty, the vocabulary lacks a symbol of the prompt, or an
        argument is out of range.
    """
    self.validate_prompt(prompt, top_k)
    tokens, lengths = self._encode(prompt, num_samples)
    if length < 1 or num_samples < 1:
      raise InvalidInputError(
        f"length and num_samples must be at least 1; got {length} and {num_samples}"
      )
    try:
      sampler = make_sampler(temperature, top_k, top_p)
    except ValueError as error:
      raise InvalidInputError(str(error)) from None
    _, samples = generate(
      self.model.predict_next,
      self.params,
      tokens,
      jax.random.key(seed),
      num_tokens=length,
      lengths=lengths,
      sampler=sampler,
    )
    texts = [self.separator.join(self.vocabulary.decode(ids)) for ids in np.asarray(samples).T]
    if self.byte_level:
      return [text.encode("latin-1").decode(errors="replace") for text in texts]
    return texts

  def validate_prompt(self, prompt: str, top_k: int | None = None):
    """Raise InvalidInputError if `generate` would reject the prompt or `top_k`."""
    self._encode(prompt, 1)
    if top_k and top_k > len(self.vocabulary):
      raise InvalidInputError(
        f"top_k must be at most {len(self.vocabulary)}, the size of the vocabulary; got {top_k}"
      )

  def top_next_tokens(self, prompt: str, k: int = 10) -> list[tuple[str, float]]:
    """Return the k most probable next symbols as (symbol, probability), in descending order."""
    _, logits = _predict_next(self.model, self.params, *self._encode(prompt, 1))
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    ids = np.argsort(-probabilities)[:k]
    return list(zip(self.vocabulary.decode(ids), probabilities[ids].tolist()))

  def _encode(self, prompt, num_samples):
    """Return the token ids [T, num_samples] of the padded prompt, and lengths [num_samples]."""
    if self.byte_level:
      prompt = prompt.encode().decode("latin-1")
    if self.separator:
      # A word that the vocabulary lacks, such as "Hello,", is tokenized.
      words_of = lambda word: [word] if word in self.vocabulary.ids else tokenize_lower(word)
      prompt = [token for word in prompt.split() for token in words_of(word)]
    ids = self.vocabulary.encode(prompt)
    if not len(ids):
      raise InvalidInputError(
        "the prompt must have at least one symbol, such as a line break; got none"
      )
    bucket = BUCKET_SIZE << max(0, (len(ids) - 1).bit_length() - BUCKET_SIZE.bit_length() + 1)
    column = np.pad(ids, (0, bucket - len(ids)))
    return np.tile(column[:, None], num_samples), np.full(num_samples, len(ids), np.int32)

"""A trained language model that one can ask to write."""

from typing import NamedTuple

import jax
import numpy as np

from rnnjax.data.vocabulary import Vocabulary, tokenize_lower
from rnnjax.decoding import generate, make_sampler
from rnnjax.models.language_model import LanguageModel
from rnnjax.types import InvalidInputError, Params

BUCKET_SIZE = 16  # prompts are padded to this length times a power of 2, so that few are compiled


_jitted_call = jax.jit(lambda read, *args: read(*args), static_argnums=0)


class TextGenerator(NamedTuple):
  """A language model, its parameters, and its vocabulary.

      writer = char_lm.load("runs/shakespeare")
      print(writer.write("ROMEO:", 500, temperature=0.8)[0])

  Attributes:
    model, params: what reads and predicts.
    vocabulary: symbols and their ids.
    blank: what stands between two symbols: "" for characters, " " for words.
    raw: symbols are bytes; prompts and texts are UTF-8, and what is written can break off amid one.
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
    """Writes on from the prompt, so many texts of so many symbols; the prompt is not repeated.

    Raises:
      BadInput: an empty prompt, a symbol in it that the model never saw, or values that `sample`
        refuses.
    """
    self.validate_prompt(prompt, top_k)
    tokens, lengths = self._encode(prompt, num_samples)
    if length < 1 or num_samples < 1:
      raise InvalidInputError(
        f"at least one symbol of one text must be written; got {length} of {num_samples}"
      )
    try:
      choose = make_sampler(temperature, top_k, top_p)
    except ValueError as error:
      raise InvalidInputError(str(error)) from None
    _, written = generate(
      self.model.predict_next,
      self.params,
      tokens,
      jax.random.key(seed),
      num_tokens=length,
      lengths=lengths,
      sampler=choose,
    )
    texts = [self.separator.join(self.vocabulary.decode(row)) for row in np.asarray(written).T]
    spell = lambda text: text.encode("latin-1").decode(errors="replace")
    return [*map(spell, texts)] if self.byte_level else texts

  def validate_prompt(self, prompt: str, top_k: int | None = None):
    """Refuses what `write` would refuse."""
    self._encode(prompt, 1)
    if top_k and top_k > len(self.vocabulary):
      raise InvalidInputError(
        f"top_k must be at most {len(self.vocabulary)}, the vocabulary; got {top_k}"
      )

  def top_next_tokens(self, prompt: str, k: int = 10) -> list[tuple[str, float]]:
    """The symbols likeliest to follow the prompt, with their probabilities."""
    _, logits = _jitted_call(self.model.predict_next, self.params, *self._encode(prompt, 1))
    p = np.asarray(jax.nn.softmax(logits[0]))
    best = np.argsort(-p)[:k]
    return list(zip(self.vocabulary.decode(best), p[best].tolist()))

  def _encode(self, prompt, num_samples):
    """The prompt in `number` columns, padded to a bucket, and their lengths."""
    known = self.vocabulary.ids
    prompt = prompt.encode().decode("latin-1") if self.byte_level else prompt
    if self.separator:
      prompt = [
        p for word in prompt.split() for p in ([word] if word in known else tokenize_lower(word))
      ]
    ids = self.vocabulary.encode(prompt)
    if not len(ids):
      raise InvalidInputError("the prompt is empty; give at least one symbol, such as a line's end")
    bucket = BUCKET_SIZE << max(0, (len(ids) - 1).bit_length() - BUCKET_SIZE.bit_length() + 1)
    column = np.pad(ids, (0, bucket - len(ids)))
    return np.tile(column[:, None], num_samples), np.full(num_samples, len(ids), np.int32)

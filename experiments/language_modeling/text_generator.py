"""A trained language model that one can ask to write."""

from typing import NamedTuple

import jax
import numpy as np

from rnnjax.data.vocabulary import Vocabulary, words
from rnnjax.decoding import generate, sample
from rnnjax.models.language_model import LanguageModel
from rnnjax.types import BadInput, Params

BUCKET = 16  # prompts are padded to this length times a power of 2, so that few are compiled


_read = jax.jit(lambda read, *args: read(*args), static_argnums=0)


class Writer(NamedTuple):
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
  blank: str = ""
  raw: bool = False

  def write(
    self,
    prompt: str,
    length: int,
    *,
    number: int = 1,
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
    self.check(prompt, top_k)
    tokens, lengths = self._encode(prompt, number)
    if length < 1 or number < 1:
      raise BadInput(f"at least one symbol of one text must be written; got {length} of {number}")
    try:
      choose = sample(temperature, top_k, top_p)
    except ValueError as error:
      raise BadInput(str(error)) from None
    _, written = generate(
      self.model.read,
      self.params,
      tokens,
      jax.random.key(seed),
      steps=length,
      lengths=lengths,
      choose=choose,
    )
    texts = [self.blank.join(self.vocabulary.decode(row)) for row in np.asarray(written).T]
    spell = lambda text: text.encode("latin-1").decode(errors="replace")
    return [*map(spell, texts)] if self.raw else texts

  def check(self, prompt: str, top_k: int | None = None):
    """Refuses what `write` would refuse."""
    self._encode(prompt, 1)
    if top_k and top_k > len(self.vocabulary):
      raise BadInput(f"top_k must be at most {len(self.vocabulary)}, the vocabulary; got {top_k}")

  def likeliest(self, prompt: str, number: int = 10) -> list[tuple[str, float]]:
    """The symbols likeliest to follow the prompt, with their probabilities."""
    _, logits = _read(self.model.read, self.params, *self._encode(prompt, 1))
    p = np.asarray(jax.nn.softmax(logits[0]))
    best = np.argsort(-p)[:number]
    return list(zip(self.vocabulary.decode(best), p[best].tolist()))

  def _encode(self, prompt, number):
    """The prompt in `number` columns, padded to a bucket, and their lengths."""
    known = self.vocabulary.ids
    prompt = prompt.encode().decode("latin-1") if self.raw else prompt
    if self.blank:
      prompt = [p for word in prompt.split() for p in ([word] if word in known else words(word))]
    ids = self.vocabulary.encode(prompt)
    if not len(ids):
      raise BadInput("the prompt is empty; give at least one symbol, such as a line's end")
    bucket = BUCKET << max(0, (len(ids) - 1).bit_length() - BUCKET.bit_length() + 1)
    column = np.pad(ids, (0, bucket - len(ids)))
    return np.tile(column[:, None], number), np.full(number, len(ids), np.int32)

"""A trained translator that one can ask."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.data.bucketed_batches import Batches
from rnnjax.data.tokenizer import BEGIN, END, Subwords
from rnnjax.data.vocabulary import UNKNOWN
from rnnjax.decoding import beam_search
from rnnjax.models.ensemble import Ensemble
from rnnjax.models.seq2seq import Source, Translator
from rnnjax.types import Array, BadInput, Params

SEARCH = ("width", "steps", "block")
BUCKET = 16  # what attention is looked at is padded to multiples of, so that few are compiled


class Rewriter(NamedTuple):
  """A translator, its parameters, and its subwords.

      rewriter = translate.load("runs/ende")
      rewriter(["Two dogs play in the snow."])[0]

  Attributes:
    model, params: what reads and writes; an `Ensemble`, too.
    source, target: texts and ids.
  """

  model: Translator | Ensemble
  params: Params
  source: Subwords
  target: Subwords

  def __call__(self, texts: Sequence[str], **how) -> list[str]:
    """What is written for each text; how as for `write`.

    Raises:
      BadInput: no text, an empty one, or a beam wider than the vocabulary.
    """
    if not texts or not all(text.strip() for text in texts):
      raise BadInput("there must be a text, and none may be empty")
    written = self.write([ended(self.source.encode(text)) for text in texts], **how)
    return [self.spell(text, ids) for text, ids in zip(texts, written)]

  def write(
    self,
    sources: Sequence[np.ndarray],
    *,
    width: int = 5,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    block: int = 0,
    steps: int = 100,
    batch: int = 50,
  ) -> list[np.ndarray]:
    """The ids [T] of the best that beam search finds for each source, an array [S, ...], of at most
    so many steps; arguments as there.

    Raises:
      BadInput: a beam wider than the vocabulary.
    """
    if width > len(self.target):
      raise BadInput(f"the beam must be at most {len(self.target)}, the vocabulary; got {width}")
    written: list = [None] * len(sources)
    for made in Batches(sources, range(len(sources)), min(batch, len(sources))):
      found = jax.device_get(
        search(
          self.model,
          self.params,
          made,
          width=width,
          steps=steps,
          length_penalty=length_penalty,
          coverage_penalty=coverage_penalty,
          block=block,
        )
      )
      tokens, lengths = found["tokens"], found["lengths"]
      for b in np.flatnonzero(made["weights"]):
        written[made["labels"][b]] = tokens[: lengths[b], b]
    return written

  def spell(self, text: str, written: np.ndarray) -> str:
    """The text of ids written for a text; what a model that copies takes of the unknown, from where
    it attended most, is spelt as it stands there."""
    if not (self.model.copy and UNKNOWN in written):
      return self.target.decode(written)
    source = ended(self.source.encode(text))
    there, copied = (np.flatnonzero(ids == UNKNOWN) for ids in (source, written))
    if not len(there):
      return self.target.decode(written)
    places = there[self.look(source, written)[copied][:, there].argmax(1)]
    pieces = self.source.pieces(text)
    return self.target.decode(written, [pieces[place] for place in places])

  def attention(self, text: str, written: np.ndarray) -> tuple[list[str], list[str], np.ndarray]:
    """The pieces of a text and those that were written, and how much each of these attends to each
    of those. α [T, S]"""
    pieces = self.source.pieces(text), [self.target.words[i] for i in written]
    α = self.look(ended(self.source.encode(text)), written)
    return *([*some, "⏎"] for some in pieces), α

  def look(self, source: np.ndarray, written: np.ndarray) -> np.ndarray:
    """α [T, S]: how much each written id, and the end, attends to each place of a source."""
    read = np.array([BEGIN, *written], np.int32)
    pad = lambda ids: np.pad(ids, (0, -len(ids) % BUCKET))[:, None]
    α = _look(self.model, self.params, pad(source), np.array([len(source)]), pad(read))
    return np.asarray(α[: len(read), : len(source), 0])


def ended(ids: np.ndarray) -> np.ndarray:
  """The ids of a source, with what ends it."""
  return np.append(ids, END).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _look(model: Translator | Ensemble, params: Params, source: Array, lengths: Array, read: Array):
  """α [T, S, B] where source [S, B] was given, and [T, B] are read of what is written."""
  return model.apply({"params": params}, source, lengths, read, method="look")


@functools.partial(jax.jit, static_argnums=0, static_argnames=SEARCH)
def search(
  model: Translator | Ensemble,
  params: Params,
  batch: dict,
  *,
  width: int,
  steps: int,
  block: int,
  length_penalty: float = 0.0,
  coverage_penalty: float = 0.0,
) -> dict[str, Array]:
  """The best text that beam search finds for each source of a batch: its "tokens" [T, B], their
  number "lengths" [B] and "log_p" [B]; arguments as for `beam`, whose coverage counts where the
  model's attention keeps it."""
  tokens, lengths = batch["tokens"], batch["lengths"]
  memory, carry = model.apply({"params": params}, tokens, lengths, method="remember")
  covered = functools.partial(model.covered, memory)
  found = beam_search(
    model.read,
    Source(params, tokens, memory),
    carry,
    jnp.full_like(lengths, BEGIN),
    width=width,
    steps=steps,
    end=END,
    length_penalty=length_penalty,
    block=block,
    coverage=None if covered(carry) is None else covered,
    coverage_penalty=coverage_penalty,
  )
  return {name: getattr(found, name)[0] for name in ("tokens", "lengths", "log_p")}

"""A trained translator that one can ask."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from rnnjax.data.batches import Batches
from rnnjax.data.subwords import BEGIN, END, Subwords
from rnnjax.models.translator import Source, Translator
from rnnjax.search import beam
from rnnjax.types import Array, BadInput, Params

SEARCH = ("width", "steps", "length_penalty", "block")


class Rewriter(NamedTuple):
  """A translator, its parameters, and its subwords.

      rewriter = translate.load("runs/ende")
      rewriter(["Two dogs play in the snow."])[0]

  Attributes:
    model, params: what reads and writes.
    source, target: texts and ids.
  """

  model: Translator
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
    return self.write([ended(self.source.encode(text)) for text in texts], **how)

  def write(
    self,
    sources: Sequence[np.ndarray],
    *,
    width: int = 5,
    length_penalty: float = 1.0,
    block: int = 0,
    steps: int = 100,
    batch: int = 50,
  ) -> list[str]:
    """The best that beam search finds for each source, an array [S, ...], of at most so many steps;
    arguments as there.

    Raises:
      BadInput: a beam wider than the vocabulary.
    """
    if width > len(self.target):
      raise BadInput(f"the beam must be at most {len(self.target)}, the vocabulary; got {width}")
    written: list = [None] * len(sources)
    for made in Batches(sources, range(len(sources)), min(batch, len(sources))):
      how = dict(width=width, steps=steps, length_penalty=length_penalty, block=block)
      found = jax.device_get(search(self.model, self.params, made, **how))
      tokens, lengths = found["tokens"], found["lengths"]
      for b in np.flatnonzero(made["weights"]):
        written[made["labels"][b]] = self.target.decode(tokens[: lengths[b], b])
    return written

  def attention(self, text: str, written: str) -> tuple[list[str], list[str], np.ndarray]:
    """The pieces of both texts, and how much each written one attends to each read. α [T, S]"""
    pieces = self.source.pieces(text), self.target.pieces(written)
    α = self.look(ended(self.source.encode(text)), written)
    return *([*some, "⏎"] for some in pieces), α

  def look(self, source: np.ndarray, written: str) -> np.ndarray:
    """α [T, S]: how much each written piece, and the end, attends to each place of a source."""
    targets = np.array([BEGIN, *self.target.encode(written), END], np.int32)
    ones = np.ones((len(targets) - 1, 1), np.float32)
    _, α = self.model.apply(
      {"params": self.params}, source[:, None], np.array([len(source)]), targets[:, None], ones
    )
    return np.asarray(α[..., 0])


def ended(ids: np.ndarray) -> np.ndarray:
  """The ids of a source, with what ends it."""
  return np.append(ids, END).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0, static_argnames=SEARCH)
def search(
  model: Translator, params: Params, batch: dict, *, width: int, steps: int, length_penalty: float,
  block: int,
) -> dict[str, Array]:  # fmt: skip
  """The best text that beam search finds for each source of a batch: its "tokens" [T, B], their
  number "lengths" [B] and "log_p" [B]; arguments as for `beam`."""
  tokens, lengths = batch["tokens"], batch["lengths"]
  memory, carry = model.apply({"params": params}, tokens, lengths, method="remember")
  found = beam(
    model.read, Source(params, tokens, memory), carry, jax.numpy.full_like(lengths, BEGIN),
    width=width, steps=steps, end=END, length_penalty=length_penalty, block=block,
  )  # fmt: skip
  return {name: getattr(found, name)[0] for name in ("tokens", "lengths", "log_p")}

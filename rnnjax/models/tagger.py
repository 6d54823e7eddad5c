"""Tagger: word and character embeddings, encoder, tag layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.crf import TagLayer
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Key


class Tagger(nn.Module):
  """A tagger of tokens (Huang et al. 2015; Lample et al. 2016; Ma & Hovy 2016).

      xₜ = drop([E[wₜ], spelling(characters of wₜ), Eⱼ[columnⱼ of wₜ] ...])
      hs = encoder(xs);   sₜ = drop(hₜ) W + b;   p(y | xs) = tag_layer(ss)

  Attributes:
    embedding: tokens [T, B] -> [T, B, D].
    encoder: the recurrent encoder.
    tag_layer: `crf.independent` or `crf.linear_chain`.
    spelling: the character encoder, characters [T, B, C] -> [T, B, F], or None.
    column_sizes: (size, width) of the embedding table of each additional input column.
    word_dropout: dropout rate of the word embeddings E[wₜ]. Whole vectors are dropped, so that the
      tagger learns to use spelling and context.
    input_dropout: dropout rate of the features of xs, with one mask for all steps.
    output_dropout: dropout rate of the features of hs, with one mask for all steps.
  """

  embedding: nn.Module
  encoder: Encoder
  tag_layer: TagLayer
  spelling: nn.Module | None = None
  column_sizes: tuple[tuple[int, int], ...] = ()
  word_dropout: float = 0.0
  input_dropout: float = 0.0
  output_dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    lengths: Array,
    characters: Array | None = None,
    columns: Array | None = None,
    key: Key | None = None,
  ) -> tuple[dict, Array]:
    """Return the parameters of the tag layer and the tag scores [T, B, K].

    Args:
      tokens: token ids [T, B].
      lengths: sequence lengths [B].
      characters: character ids of each token [T, B, C]; None if there is no character encoder.
      columns: values of the N additional columns [T, B, N]; None if there are none.
      key: the random key of dropout; None for no dropout.
    """
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = [drop.word_dropout(self.embedding(tokens), self.word_dropout, keys[0])]
    if self.spelling:
      xs.append(self.spelling(characters))
    for j, (size, width) in enumerate(self.column_sizes):
      xs.append(nn.Embed(size, width, name=f"column_{j}")(columns[..., j]))
    xs = drop.variational_dropout(jnp.concatenate(xs, -1), self.input_dropout, keys[1])
    params = self.param("encoder", self.encoder.init, xs.shape[-1])
    _, hs = self.encoder.apply(params, xs, lengths, key=keys[2])
    hs = drop.variational_dropout(hs, self.output_dropout, keys[3])
    scores = nn.Dense(self.tag_layer.num_tags, name="scores")(hs)
    return self.param("tags", self.tag_layer.init), scores

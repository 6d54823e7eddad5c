"""A tag for every token: vectors of words and of their characters, encoder, last layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.crf import TagLayer
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Key


class Tagger(nn.Module):
  """Many to many in step (Huang et al. 2015; Lample et al. 2016; Ma & Hovy 2016).

      xₜ = drop([E[wₜ], spelling(characters of wₜ), Eⱼ[columnⱼ of wₜ] ...])
      sₜ = drop(hₜ) W + b,  hs = encoder(xs);   p(y | xs) = tags(ss)

  Attributes:
    embedding: tokens [T, B] -> [T, B, D].
    encoder: the recurrent part.
    tags: the last layer, `crf.independent` or `crf.linear_chain`.
    spelling: characters [T, B, C] -> [T, B, F], or None.
    columns: (size, width) of the table of each column that is read beside the words.
    word_dropout: rate at which whole words vanish, so that spelling and neighbours must do.
    input_dropout: rate at which features of xs vanish, for all steps at once.
    output_dropout: the same for hs.
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
    """tokens [T, B], lengths [B], characters [T, B, C], columns [T, B, N] -> params of tags, scores
    [T, B, K].

    Dropout acts where a key is given.
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
    return self.param("tags", self.tag_layer.init), nn.Dense(
      self.tag_layer.num_tags, name="scores"
    )(hs)

"""Tokens as vectors: trainable, one-hot, given, or in their context."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.data import word_vectors
from rnnjax.data.vocabulary import Vocabulary
from rnnjax.encoders import Encoder
from rnnjax.models.language_model import LanguageModel
from rnnjax.types import Array


class OneHot(nn.Module):
  """tokens [...] -> [..., V], a single 1 in each; nothing is learnt.

  Attributes:
    vocabulary: V. Memory grows with it: [T, B, V] numbers a batch.
  """

  vocab_size: int

  def __call__(self, tokens: Array) -> Array:
    return jax.nn.one_hot(tokens, self.vocab_size)


class ContextualEmbedding(nn.Module):
  """Words in their context, as a language model knows them: Peters et al. 2018.

      c = [encoder(E[tokens]), back(E[tokens])] P

  Of the parameters P alone is learnt. No gradient reaches the others: they stay what
  `experiments.text_classification.pretrained` makes them.

  Attributes:
    embedding: E [V, D].
    encoder: of the language model, forward in time.
    back: backward in time, or None.
    features: C, the width of c.
  """

  embedding: nn.Embed
  encoder: Encoder
  backward_encoder: Encoder | None
  features: int

  @nn.compact
  def __call__(self, tokens: Array, lengths: Array) -> Array:
    """tokens [T, B], lengths [B] -> c [T, B, C]."""
    xs, states = jax.lax.stop_gradient(self.embedding(tokens)), []
    for name, encoder in (("encoder", self.encoder), ("back", self.backward_encoder)):
      if encoder:
        params = jax.lax.stop_gradient(self.param(name, encoder.init, xs.shape[-1]))
        states.append(encoder.apply(params, xs, lengths)[1])
    return nn.Dense(self.features, use_bias=False, name="map")(jnp.concatenate(states, -1))


def contextual_embedding(
  language_model: LanguageModel, vocab_size: int, features: int
) -> ContextualEmbedding:
  """What a language model makes of a classifier's `vocabulary` words: c [T, B, features]."""
  table = trainable_embedding(vocab_size, language_model.embedding.features)
  return ContextualEmbedding(
    table, language_model.encoder, language_model.backward_encoder, features
  )


def trainable_embedding(vocab_size: int, embed_dim: int) -> nn.Embed:
  """A table [V, D] that starts as N(0, 0.1²) and is learnt."""
  return nn.Embed(vocab_size, embed_dim, embedding_init=nn.initializers.normal(0.1))


def embedding_from_file(vocabulary: Vocabulary, embed_dim: int, path: str = "") -> nn.Embed:
  """A trainable table, which starts as the vectors of a file where there is one."""
  return (
    embedding_from_array(word_vectors.load_embeddings(path, vocabulary))
    if path
    else trainable_embedding(len(vocabulary), embed_dim)
  )


def embedding_from_array(table: np.ndarray) -> nn.Embed:
  """A table [V, D] that starts as the vectors given and is learnt further."""
  return nn.Embed(*table.shape, embedding_init=lambda key, shape, dtype: table.astype(dtype))

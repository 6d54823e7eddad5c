"""Embeddings of tokens: trainable, one-hot, pretrained, or contextual."""

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
  """One-hot encoding without parameters: tokens [...] -> [..., V].

  Attributes:
    vocab_size: V. An encoded batch is an array [T, B, V], which can need much memory.
  """

  vocab_size: int

  def __call__(self, tokens: Array) -> Array:
    return jax.nn.one_hot(tokens, self.vocab_size)


class ContextualEmbedding(nn.Module):
  """Contextual word embedding from a frozen language model (ELMo: Peters et al. 2018).

      c = [encoder(E[tokens]), backward_encoder(E[tokens])] P

  Only P is trained. The other parameters get no gradient and keep the values that
  `experiments.text_classification.pretrained` loads into them.

  Attributes:
    embedding: the embedding table E [V, D] of the language model.
    encoder: the forward encoder of the language model.
    backward_encoder: the backward encoder of the language model, or None.
    features: C, the width of c.
  """

  embedding: nn.Embed
  encoder: Encoder
  backward_encoder: Encoder | None
  features: int

  @nn.compact
  def __call__(self, tokens: Array, lengths: Array) -> Array:
    """Return the embedding c [T, B, C] of tokens [T, B] with lengths [B]."""
    xs = jax.lax.stop_gradient(self.embedding(tokens))
    states = []
    for name, encoder in (("encoder", self.encoder), ("back", self.backward_encoder)):
      if encoder:
        params = jax.lax.stop_gradient(self.param(name, encoder.init, xs.shape[-1]))
        states.append(encoder.apply(params, xs, lengths)[1])
    return nn.Dense(self.features, use_bias=False, name="map")(jnp.concatenate(states, -1))


def contextual_embedding(
  language_model: LanguageModel, vocab_size: int, features: int
) -> ContextualEmbedding:
  """Return a module that embeds tokens with the encoders of a language model.

  The module maps tokens [T, B] with ids below `vocab_size`, and lengths [B], to c [T, B, features].
  """
  table = trainable_embedding(vocab_size, language_model.embedding.features)
  return ContextualEmbedding(
    table, language_model.encoder, language_model.backward_encoder, features
  )


def trainable_embedding(vocab_size: int, embed_dim: int) -> nn.Embed:
  """Return a trainable embedding table [V, D], initialized from N(0, 0.1²)."""
  return nn.Embed(vocab_size, embed_dim, embedding_init=nn.initializers.normal(0.1))


def embedding_from_file(vocabulary: Vocabulary, embed_dim: int, path: str = "") -> nn.Embed:
  """Return a trainable embedding table, initialized with the vectors of a file if `path` is set.

  Args:
    vocabulary: the words of the table.
    embed_dim: the width of the embedding. It is ignored if `path` is set: the embedding then has
      the width of the vectors in the file.
    path: a file of word vectors; "" for random initialization.
  """
  if not path:
    return trainable_embedding(len(vocabulary), embed_dim)
  return embedding_from_array(word_vectors.load_embeddings(path, vocabulary))


def embedding_from_array(table: np.ndarray) -> nn.Embed:
  """Return a trainable embedding table, initialized with `table` [V, D]."""
  return nn.Embed(*table.shape, embedding_init=lambda key, shape, dtype: table.astype(dtype))

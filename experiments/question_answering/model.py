"""A recurrent memory network that encodes a story several times to answer a question."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax import pooling
from rnnjax.attention import Attention, attend
from rnnjax.data.vocabulary import PAD
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Key


class MemoryNetwork(nn.Module):
  """A question answering model with a hierarchical encoder and several attention hops.

  The sentence encoder maps words to sentence vectors. The story encoder maps sentence vectors to
  hidden states. Each hop attends to these hidden states.

      fₛ = mean(sentence_encoder(E[words of sentence s]))
      q₀ = mean(sentence_encoder(E[words of the question]))
      hs, eₖ = story_encoder([f, f ⊙ qₖ₋₁, |f − qₖ₋₁|])     for k = 1 ... num_hops
      cₖ, αₖ = attention(qₖ₋₁, hs)
      qₖ = relu([qₖ₋₁, cₖ, eₖ, q₀] Wₖ + bₖ)
      logits = dropout([q₀, q_num_hops]) W + b

  eₖ is the final hidden state of the story encoder, cₖ the context vector and αₖ the attention
  weights. Multiple hops are from Sukhbaatar et al. 2015. Each hop encodes the story again, as in
  Kumar et al. 2016, because the relevant sentences depend on the results of previous hops.

  Attributes:
    embedding: the word embedding E, from ids [...] to vectors [..., D].
    sentence_encoder: the encoder over the words of a sentence or question, with F output features.
    story_encoder: the encoder over the sentences of a story.
    attention: the attention of the question vector q over the story.
    num_answers: the number of answers K.
    num_hops: the number of attention hops.
    dropout: dropout rate of the word vectors and of the input of the last layer.
  """

  embedding: nn.Module
  sentence_encoder: Encoder
  story_encoder: Encoder
  attention: Attention
  num_answers: int
  num_hops: int = 3
  dropout: float = 0.0

  def __call__(self, *inputs: Array, key: Key | None = None) -> Array:
    """Return the logits [B, K]; see `logits_and_attention` for the arguments."""
    return self.logits_and_attention(*inputs, key=key)[0]

  @nn.compact
  def logits_and_attention(
    self,
    story: Array,
    lengths: Array,
    question: Array,
    question_lengths: Array,
    key: Key | None = None,
  ) -> tuple[Array, Array]:
    """Return the logits and the attention weights of each hop.

    Args:
      story: word ids [S, B, W] of S sentences with W words, padded with PAD.
      lengths: the number of sentences of each story [B].
      question: word ids [U, B] of questions with U words.
      question_lengths: the number of words of each question [B].
      key: random key of dropout; None disables dropout.

    Returns:
      The logits [B, K] and the attention weights α [num_hops, S, B].
    """
    keys = [None] * 3 if key is None else jax.random.split(key, 3)
    F = self.sentence_encoder.features
    sentence_params = self.param("sentence", self.sentence_encoder.init, self.embedding.features)
    story_params = self.param("story", self.story_encoder.init, 3 * F)

    def encode_words(ids, lengths, key):
      """Return the sentence vectors [..., F] of sentences given as word ids [T, ...]."""
      xs = drop.variational_dropout(self.embedding(ids), self.dropout, key)
      _, hs = self.sentence_encoder.apply(sentence_params, xs, lengths)
      return pooling.mean_pooling(hs, lengths)

    sentence_lengths = jnp.sum(story != PAD, -1)
    f = encode_words(jnp.moveaxis(story, -1, 0), sentence_lengths, keys[0])
    q = question_vector = encode_words(question, question_lengths, keys[1])
    weights = []
    for k in range(self.num_hops):
      xs = jnp.concatenate([f, f * q[None], abs(f - q[None])], -1)
      carry, hs = self.story_encoder.apply(story_params, xs, lengths)
      params = self.param(f"attention_{k}", self.attention.init, F, self.story_encoder.features)
      attention_keys = self.attention.compute_keys(params, hs, lengths)
      context, α = attend(self.attention, params, q, attention_keys, hs, lengths)
      final_hidden = self.story_encoder.final_hidden(carry)
      features = jnp.concatenate([q, context, final_hidden, question_vector], -1)
      q = nn.relu(nn.Dense(F, name=f"hop_{k}")(features))
      weights.append(α)
    features = jnp.concatenate([question_vector, q], -1)
    features = drop.dropout(features, self.dropout, keys[2])
    return nn.Dense(self.num_answers, name="answers")(features), jnp.stack(weights)

"""An answer to a question about a story: read again and again, in the light of what was found."""

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
  """Many to one, twice: words to a sentence, sentences to an answer.

      fₛ = mean(sentence(E[words of s]));   q₀ = mean(sentence(E[words of the question]))
      hs, eₖ = story([f, f ⊙ qₖ₋₁, |f − qₖ₋₁|]), where it ends                k = 1 ... hops
      cₖ, αₖ = attend(qₖ₋₁, hs);   qₖ = relu([qₖ₋₁, cₖ, eₖ, q₀] Wₖ + bₖ)
      logits = drop([q₀, q_hops]) W + b

  Each hop reads the whole story anew, as the episodes of Kumar et al. 2016 do: what a sentence is
  worth hangs on what the ones before have answered. Many hops are Sukhbaatar et al. 2015.

  Attributes:
    embedding: words [...] -> [..., D].
    sentence: reads words.
    story: reads sentences.
    attention: how a question finds sentences.
    answers: K.
    hops: how often the story is read.
    dropout: rate at which features of words and of what the answer is read from vanish.
  """

  embedding: nn.Module
  sentence_encoder: Encoder
  story_encoder: Encoder
  attention: Attention
  num_answers: int
  num_hops: int = 3
  dropout: float = 0.0

  def __call__(self, *inputs: Array, key: Key | None = None) -> Array:
    """Of `look`, the logits [B, K]."""
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
    """story [S, B, W], lengths [B], question [U, B], its lengths `ends` [B] -> logits [B, K] and
    α [hops, S, B]. Dropout acts where a key is given.
    """
    keys = [None] * 3 if key is None else jax.random.split(key, 3)
    F = self.sentence_encoder.features
    words = self.param("sentence", self.sentence_encoder.init, self.embedding.features)
    sentences = self.param("story", self.story_encoder.init, 3 * F)

    def read(text, ends, key):
      """text [T, ...] of ids -> [..., F]"""
      xs = drop.variational_dropout(self.embedding(text), self.dropout, key)
      return pooling.mean_pooling(self.sentence_encoder.apply(words, xs, ends)[1], ends)

    f = read(jnp.moveaxis(story, -1, 0), jnp.sum(story != PAD, -1), keys[0])
    q = asked = read(question, question_lengths, keys[1])
    αs = []
    for k in range(self.num_hops):
      seen = jnp.concatenate([f, f * q[None], abs(f - q[None])], -1)
      carry, hs = self.story_encoder.apply(sentences, seen, lengths)
      params = self.param(f"attention_{k}", self.attention.init, F, self.story_encoder.features)
      known = self.attention.compute_keys(params, hs, lengths)
      context, α = attend(self.attention, params, q, known, hs, lengths)
      found = jnp.concatenate([q, context, self.story_encoder.final_hidden(carry), asked], -1)
      q = nn.relu(nn.Dense(F, name=f"hop_{k}")(found))
      αs.append(α)
    s = drop.dropout(jnp.concatenate([asked, q], -1), self.dropout, keys[2])
    return nn.Dense(self.num_answers, name="answers")(s), jnp.stack(αs)

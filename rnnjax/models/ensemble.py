"""Ensemble of sequence-to-sequence models."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.types import Array, Carry, Params


class Ensemble(NamedTuple):
  """Seq2Seq models with the same vocabularies, whose next-token probabilities are averaged.

      p(wₜ₊₁ | w₁ ... wₜ, source) = 1/K Σₖ pₖ(wₜ₊₁ | w₁ ... wₜ, source)

  Ensembles: Hansen & Salamon 1990; in translation: Sutskever, Vinyals & Le 2014. The models are
  trained independently. `Seq2SeqPredictor` accepts an ensemble in place of a Seq2Seq; parameters,
  memories and carries are then tuples with one entry for each model.

  Attributes:
    members: the K models.
  """

  members: tuple[Seq2Seq, ...]

  @property
  def copy_attention(self) -> bool:
    """Whether any member is a pointer-generator."""
    return any(model.copy_attention for model in self.members)

  def apply(self, variables: dict[str, tuple[Params, ...]], *args, method: str) -> Any:
    """Call a method of every member, with the signature of flax's `apply`.

    Args:
      variables: {"params": tuple of the parameters of each member}.
      *args: arguments of the method.
      method: name of the method. "encode" returns a tuple of memories and a tuple of carries.
        "attention_weights" returns the mean of the members' α [T, S, B].
    """
    results = [
      model.apply({"params": params}, *args, method=method)
      for model, params in zip(self.members, variables["params"])
    ]
    return sum(results) / len(results) if method == "attention_weights" else tuple(zip(*results))

  def predict_next(
    self, encoded: EncodedSource, tokens: Array, lengths: None, carries: tuple[Carry, ...]
  ):
    """Return the carries and the log of the mean next-token probabilities [B, V]."""
    results = [
      model.predict_next(EncodedSource(params, encoded.tokens, memory), tokens, lengths, carry)
      for model, params, memory, carry in zip(self.members, encoded.params, encoded.memory, carries)
    ]
    carries, logits = zip(*results)
    log_p = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    return carries, jax.nn.logsumexp(log_p, 0) - jnp.log(len(logits))

  def coverage_score(self, memories: tuple, carries: tuple[Carry, ...]) -> Array | None:
    """Return the mean coverage score of the members with coverage; None if no member has it."""
    scores = [
      model.coverage_score(memory, carry)
      for model, memory, carry in zip(self.members, memories, carries)
    ]
    scores = [score for score in scores if score is not None]
    return sum(scores) / len(scores) if scores else None

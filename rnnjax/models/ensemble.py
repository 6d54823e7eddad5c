"""Several models that write together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.models.seq2seq import EncodedSource, Seq2Seq
from rnnjax.types import Array, Carry, Params


class Ensemble(NamedTuple):
  """Translators of the same words, whose probabilities are averaged at each word.

      p(wₜ₊₁ | w₁ ... wₜ, source) = 1/K Σₖ pₖ(wₜ₊₁ | w₁ ... wₜ, source)

  Hansen & Salamon 1990; in translation Sutskever, Vinyals & Le 2014. Each was trained alone. A
  Rewriter takes them for one Translator, which has a tuple of parameters, memories and carries.

  Attributes:
    members: the K of them.
  """

  members: tuple[Seq2Seq, ...]

  @property
  def copy_attention(self) -> bool:
    """Whether any can copy."""
    return any(one.copy_attention for one in self.members)

  def apply(self, variables: dict[str, tuple[Params, ...]], *args, method: str) -> Any:
    """As flax's: "remember" gives memories and carries, "look" the mean of all α [T, S, B]."""
    own = zip(self.members, variables["params"])
    found = [one.apply({"params": params}, *args, method=method) for one, params in own]
    return sum(found) / len(found) if method == "look" else tuple(zip(*found))

  def predict_next(
    self, encoded: EncodedSource, tokens: Array, lengths: None, carries: tuple[Carry, ...]
  ):
    """As a Translator's: tokens [T, B] -> carries, log p [B, V] of what follows."""
    own = zip(self.members, encoded.params, encoded.memory, carries)
    found = [
      one.predict_next(EncodedSource(params, encoded.tokens, memory), tokens, lengths, carry)
      for one, params, memory, carry in own
    ]
    carries, logits = zip(*found)
    log_p = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    return carries, jax.nn.logsumexp(log_p, 0) - jnp.log(len(logits))

  def coverage_score(self, memories: tuple, carries: tuple[Carry, ...]) -> Array | None:
    """As a Translator's: the mean of those who know."""
    own = zip(self.members, memories, carries)
    found = [one.coverage_score(memory, carry) for one, memory, carry in own]
    found = [c for c in found if c is not None]
    return sum(found) / len(found) if found else None

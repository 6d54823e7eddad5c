"""Several models that write together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.models.seq2seq import Source, Translator
from rnnjax.types import Array, Carry, Params


class Ensemble(NamedTuple):
  """Translators of the same words, whose probabilities are averaged at each word.

      p(wₜ₊₁ | w₁ ... wₜ, source) = 1/K Σₖ pₖ(wₜ₊₁ | w₁ ... wₜ, source)

  Hansen & Salamon 1990; in translation Sutskever, Vinyals & Le 2014. Each was trained alone. A
  Rewriter takes them for one Translator, which has a tuple of parameters, memories and carries.

  Attributes:
    members: the K of them.
  """

  members: tuple[Translator, ...]

  @property
  def copy(self) -> bool:
    """Whether any can copy."""
    return any(one.copy for one in self.members)

  def apply(self, variables: dict[str, tuple[Params, ...]], *given, method: str) -> Any:
    """As flax's: "remember" gives memories and carries, "look" the mean of all α [T, S, B]."""
    own = zip(self.members, variables["params"])
    found = [one.apply({"params": params}, *given, method=method) for one, params in own]
    return sum(found) / len(found) if method == "look" else tuple(zip(*found))

  def read(self, known: Source, tokens: Array, lengths: None, carries: tuple[Carry, ...]):
    """As a Translator's: tokens [T, B] -> carries, log p [B, V] of what follows."""
    own = zip(self.members, known.params, known.memory, carries)
    found = [
      one.read(Source(params, known.tokens, memory), tokens, lengths, carry)
      for one, params, memory, carry in own
    ]
    carries, logits = zip(*found)
    log_p = jax.nn.log_softmax(jnp.stack(logits).astype(jnp.float32))
    return carries, jax.nn.logsumexp(log_p, 0) - jnp.log(len(logits))

  def covered(self, memories: tuple, carries: tuple[Carry, ...]) -> Array | None:
    """As a Translator's: the mean of those who know."""
    own = zip(self.members, memories, carries)
    found = [one.covered(memory, carry) for one, memory, carry in own]
    found = [c for c in found if c is not None]
    return sum(found) / len(found) if found else None

"""rnnjax: recurrent networks as pure functions, scanned by jax."""

from rnnjax.cells import Cell, gru, lru, lstm, mingru, minlstm, vanilla
from rnnjax.decoding import generate, sample
from rnnjax.encoders import Encoder, backward, bidirectional, forward, stack
from rnnjax.unroll import backends, unroll
from rnnjax.version import __version__

__all__ = [
  "Cell",
  "Encoder",
  "__version__",
  "backends",
  "backward",
  "bidirectional",
  "forward",
  "generate",
  "gru",
  "lru",
  "lstm",
  "mingru",
  "minlstm",
  "sample",
  "stack",
  "unroll",
  "vanilla",
]

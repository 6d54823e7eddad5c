"""Recurrent neural networks in JAX: cells, encoders and decoders as pure functions."""

from rnnjax.cells import Cell, gru, lru, lstm, mingru, minlstm, vanilla
from rnnjax.decoding.sampling import generate, make_sampler
from rnnjax.encoders import Encoder, backward, bidirectional, forward, stack
from rnnjax.unroll import backend_status, unroll
from rnnjax.version import __version__

__all__ = [
  "Cell",
  "Encoder",
  "__version__",
  "backend_status",
  "backward",
  "bidirectional",
  "forward",
  "generate",
  "gru",
  "lru",
  "lstm",
  "make_sampler",
  "mingru",
  "minlstm",
  "stack",
  "unroll",
  "vanilla",
]

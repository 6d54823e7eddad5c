"""The loops over time that are fed by themselves: what is drawn, and the best there is."""

from rnnjax.decoding import ctc
from rnnjax.decoding.beam_search import Hypotheses, beam_search
from rnnjax.decoding.sampling import Sampler, filter_top_k, filter_top_p, generate, make_sampler

__all__ = [
  "Hypotheses",
  "Sampler",
  "beam_search",
  "ctc",
  "filter_top_k",
  "filter_top_p",
  "generate",
  "make_sampler",
]

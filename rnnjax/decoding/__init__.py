"""The loops over time that are fed by themselves: what is drawn, and the best there is."""

from rnnjax.decoding import ctc
from rnnjax.decoding.beam_search import Hypotheses, beam
from rnnjax.decoding.sampling import Choose, generate, sample, top_k, top_p

__all__ = ["Choose", "Hypotheses", "beam", "ctc", "generate", "sample", "top_k", "top_p"]

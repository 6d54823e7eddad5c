"""The loops over time that are fed by themselves: what is drawn, and the best there is."""

from rnnjax.search import ctc
from rnnjax.search.beam import Hypotheses, beam
from rnnjax.search.sampling import Choose, generate, sample, top_k, top_p

__all__ = ["Choose", "Hypotheses", "beam", "ctc", "generate", "sample", "top_k", "top_p"]

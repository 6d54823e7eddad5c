"""A small generated set of film reviews in which order is all.

Every review has a twin of the same words in another order and of the opposite label. So whatever a
bag of words learns, it is right on exactly one of each two, while a net that reads in order can be
right on both.
"""

import itertools

import numpy as np

POSITIVE_WORDS = "good great wonderful brilliant superb touching clever moving".split()
NEGATIVE_WORDS = "bad awful dull terrible boring clumsy weak stupid".split()
THINGS = "film movie story plot picture script ending cast".split()
PEOPLE = "singer actor director writer painter player dancer teacher".split()
OPENINGS = "well ; honestly , ; i saw it twice . ; as they say , ; last night ,".split(" ; ")


def _contrast(rng, positive: bool) -> str:
  """not a bad film but a good one / not a good film but a bad one."""
  yes, no = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    yes, no = no, yes
  return f"this is not a {no} {rng.choice(THINGS)} but a {yes} one ."


def _agent(rng, positive: bool) -> str:
  """the bad singer left a good film / the good singer left a bad film."""
  yes, no = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    yes, no = no, yes
  verb = rng.choice(["left", "made", "gave us"])
  return f"the {no} {rng.choice(PEOPLE)} {verb} a {yes} {rng.choice(THINGS)} ."


def _reversal(rng, positive: bool) -> str:
  """at first dull , in the end clever / at first clever , in the end dull."""
  yes, no = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    yes, no = no, yes
  return f"the {rng.choice(THINGS)} was {no} at first and {yes} in the end ."


def generate_reviews(num_pairs: int, seed: int = 0) -> list[tuple[str, int]]:
  """`number` pairs of twins, [(text, 1), (text, 0), ...]: the same words, the opposite label.

  No text is there twice; there are some 60,000 pairs.
  """
  made: dict[str, int] = {}
  forms = (_contrast, _agent, _reversal)
  for n in itertools.count():
    if len(made) == 2 * num_pairs:
      return list(made.items())
    form, twins = forms[n % len(forms)], {}
    for good in (True, False):
      draw = np.random.default_rng((seed, n))  # the twins draw the same words
      twins[f"{draw.choice(OPENINGS)} {form(draw, good)}"] = int(good)
    if twins.keys().isdisjoint(made):
      made |= twins

"""Generated film reviews in which only word order determines the label.

Both reviews of a pair have the same words in different orders, and opposite labels. Therefore any
bag-of-words model classifies exactly one review of each pair correctly. A recurrent model can
classify both correctly.
"""

import itertools

import numpy as np

POSITIVE_WORDS = "good great wonderful brilliant superb touching clever moving".split()
NEGATIVE_WORDS = "bad awful dull terrible boring clumsy weak stupid".split()
THINGS = "film movie story plot picture script ending cast".split()
PEOPLE = "singer actor director writer painter player dancer teacher".split()
OPENINGS = "well ; honestly , ; i saw it twice . ; as they say , ; last night ,".split(" ; ")


def _contrast(rng: np.random.Generator, positive: bool) -> str:
  """Return e.g. "this is not a bad film but a good one"; negative reviews swap the adjectives."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  return f"this is not a {first} {rng.choice(THINGS)} but a {last} one ."


def _agent(rng: np.random.Generator, positive: bool) -> str:
  """Return e.g. "the bad singer left a good film"; negative reviews swap the adjectives."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  verb = rng.choice(["left", "made", "gave us"])
  return f"the {first} {rng.choice(PEOPLE)} {verb} a {last} {rng.choice(THINGS)} ."


def _reversal(rng: np.random.Generator, positive: bool) -> str:
  """Return e.g. "the cast was dull at first and clever in the end"; negative reviews swap both."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  return f"the {rng.choice(THINGS)} was {first} at first and {last} in the end ."


def generate_reviews(num_pairs: int, seed: int = 0) -> list[tuple[str, int]]:
  """Return labeled reviews [(text, 1), (text, 0), ...]; consecutive reviews form a pair.

  No text occurs twice. There are 66,560 different pairs.
  """
  labels: dict[str, int] = {}
  templates = (_contrast, _agent, _reversal)
  for n in itertools.count():
    if len(labels) == 2 * num_pairs:
      return list(labels.items())
    template, pair = templates[n % len(templates)], {}
    for positive in (True, False):
      rng = np.random.default_rng((seed, n))  # same seed, so both reviews have the same words
      pair[f"{rng.choice(OPENINGS)} {template(rng, positive)}"] = int(positive)
    if pair.keys().isdisjoint(labels):
      labels |= pair

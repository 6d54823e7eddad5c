"""Generated film reviews in which only word order carries the label.

The reviews come in pairs of the same words in different orders and with opposite labels. Any bag of
words is therefore right on exactly one review of each pair; a model that reads in order can be
right on both.
"""

import itertools

import numpy as np

POSITIVE_WORDS = "good great wonderful brilliant superb touching clever moving".split()
NEGATIVE_WORDS = "bad awful dull terrible boring clumsy weak stupid".split()
THINGS = "film movie story plot picture script ending cast".split()
PEOPLE = "singer actor director writer painter player dancer teacher".split()
OPENINGS = "well ; honestly , ; i saw it twice . ; as they say , ; last night ,".split(" ; ")


def _contrast(rng: np.random.Generator, positive: bool) -> str:
  """Return "this is not a bad film but a good one" if positive, else with swapped adjectives."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  return f"this is not a {first} {rng.choice(THINGS)} but a {last} one ."


def _agent(rng: np.random.Generator, positive: bool) -> str:
  """Return "the bad singer left a good film" if positive, else with swapped adjectives."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  verb = rng.choice(["left", "made", "gave us"])
  return f"the {first} {rng.choice(PEOPLE)} {verb} a {last} {rng.choice(THINGS)} ."


def _reversal(rng: np.random.Generator, positive: bool) -> str:
  """Return "the cast was dull at first and clever in the end" if positive, else swapped."""
  last, first = rng.choice(POSITIVE_WORDS), rng.choice(NEGATIVE_WORDS)
  if not positive:
    last, first = first, last
  return f"the {rng.choice(THINGS)} was {first} at first and {last} in the end ."


def generate_reviews(num_pairs: int, seed: int = 0) -> list[tuple[str, int]]:
  """Return pairs of reviews, [(text, 1), (text, 0), ...]: the same words, opposite labels.

  No text occurs twice. There are about 60,000 different pairs.
  """
  labels: dict[str, int] = {}
  templates = (_contrast, _agent, _reversal)
  for n in itertools.count():
    if len(labels) == 2 * num_pairs:
      return list(labels.items())
    template, pair = templates[n % len(templates)], {}
    for positive in (True, False):
      rng = np.random.default_rng((seed, n))  # both reviews draw the same words
      pair[f"{rng.choice(OPENINGS)} {template(rng, positive)}"] = int(positive)
    if pair.keys().isdisjoint(labels):
      labels |= pair

"""Three small generated sets in which a text is rewritten; needs no file.

translations   from English into a made-up language that says when first, where before whom, and
               the verb last; the adjective follows its noun. Articles and adjectives agree with
               their noun, and the verb with its subject, which may be seven words away:

                 the old farmers helped my queen near the small river today .
                 diva los belos drenos la suma pika ku ma tira kovin .

summaries      from a report to its headline, which copies two of its words; what the report says
               was done decides which, and in what order:

                 in Zadiro on friday , Velako lost to Kodani before 38211 guests .
                 Kodani beats Velako

               No name and no number is in two reports: what is learnt by heart is of no use.

pronunciations from the letters of a made-up word to its sounds. The sound of c, g or twins
               hangs on what comes next, that of a vowel on a silent e at the end:

                 gecothime   JH EH K AO TH AY M
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np

TASKS = ("translations", "summaries", "pronunciations")
SPLIT_SIZES = (4000, 300, 300)
TextPairs = list[tuple[str, str]]

_parallel_words = lambda keys, values: dict(zip(keys.split(), values.split(), strict=True))
DETERMINERS = _parallel_words("the my your", "l m t")
NOUNS = _parallel_words(  # those in -a, and those in -o
  "queen river cat house song road star nurse farmer king dog garden book ship tree singer",
  "tira suma niva pola lera vada zita mora belo kamo ruto deno filo garo savo wino",
)
ADJECTIVES = _parallel_words("old young red small happy strange", "dren fim gul pik lat xor")
VERBS = _parallel_words("help follow paint visit call remember", "kov sul dar min feg bor")
PREPOSITIONS = _parallel_words("near behind without", "ku ra si")
ADVERBS = _parallel_words("today again alone together", "diva nolu teme gami")

EVENTS = {  # headlines, and three ways in which reports say so: A and B are names, N a number
  "A beats B": ("A won against B", "B lost to A", "B had no chance against A"),
  "A buys B": ("A bought B", "B was sold to A", "B now belongs to A"),
  "A hires B": ("A hired B", "B joined A", "B will work for A"),
  "A sues B": ("A took B to court", "B must answer to A in court", "B is in trouble with A"),
  "A visits B": ("A came to see B", "B welcomed A", "B saw A come"),
  "A earns N": ("A was paid N crowns by C", "C gave A N crowns", "N crowns went from C to A"),
  "A owes N": ("A borrowed N crowns from C", "C lent A N crowns", "N crowns are due from A to C"),
}
OPENINGS = (  # C is another name each time, N another number, D a day
  "",
  "in C on D ,",
  "on D ,",
  "as C reports ,",
  "C says that",
  "after N days in C ,",
  "while C was away ,",
  "according to C and C ,",
)
CLOSINGS = (
  ".",
  "before N guests .",
  "in C .",
  "on D , and C laughed .",
  ". C did not say why .",
  ", for the first time in N days .",
  ". C had seen it come .",
  ", said C of C .",
)
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]

ONSETS = "b c ch d f g k l m n p r s sh t th v w z bb gg ll mm nn rr ss tt".split()
SPELLING_RULES = {  # of spellings; where several fit, the first
  "e$": "",
  "a(?=[^aeiou]+e$)": "EY",
  "i(?=[^aeiou]+e$)": "AY",
  "o(?=[^aeiou]+e$)": "OW",
  "u(?=[^aeiou]+e$)": "UW",
  "a": "AE",
  "e": "EH",
  "i": "IH",
  "o": "AO",
  "u": "AH",
  "ch": "CH",
  "sh": "SH",
  "th": "TH",
  "c(?=[ei])": "S",
  "c": "K",
  "gg": "G",
  "g(?=[ei])": "JH",
  r"([a-z])\1": None,
  "[a-z]": None,  # that of the letter
}


def generate_splits(task: str) -> tuple[TextPairs, TextPairs, TextPairs]:
  """Pairs to learn from, to choose with and to test, of one of TASKS; no source is in two parts."""
  makers = dict(
    zip(TASKS, (generate_translations, generate_summaries, generate_pronunciations), strict=True)
  )
  made = makers[task](sum(SPLIT_SIZES))
  train, valid, _ = np.cumsum(SPLIT_SIZES)
  return made[:train], made[train:valid], made[valid:]


def generate_translations(num_pairs: int, seed: int = 0) -> TextPairs:
  """Pairs of a sentence and its translation; no sentence is there twice."""
  made = {}
  for n in itertools.count():
    if len(made) == num_pairs:
      return list(made.items())
    sentence, translation = _generate_translation(np.random.default_rng((seed, n)))
    made[" ".join(sentence)] = " ".join(translation)


def generate_summaries(num_pairs: int, seed: int = 0) -> TextPairs:
  """Pairs of a report and its headline; no name and no number is in two reports.

  Raises:
    ValueError: names or numbers do not suffice.
  """
  if num_pairs > 30_000:  # each takes up to three numbers and seven names
    raise ValueError(f"names and numbers suffice for 30,000 reports, not for {num_pairs:,}")
  draw = np.random.default_rng(seed)
  size = len(SYLLABLES)
  spell = lambda i: "".join(SYLLABLES[j] for j in (i // size**2, i // size % size, i % size))
  names = (spell(i).capitalize() for i in draw.permutation(size**3))
  numbers = map(str, draw.permutation(np.arange(1_000, 100_000)))
  return [_generate_summary(draw, names, numbers) for _ in range(num_pairs)]


def generate_pronunciations(num_pairs: int, seed: int = 0) -> TextPairs:
  """Pairs of a word's letters and its sounds; no word is there twice."""
  draw, made = np.random.default_rng(seed), {}
  while len(made) < num_pairs:
    syllables = [draw.choice(ONSETS) + draw.choice([*"aeiou"]) for _ in range(draw.integers(2, 5))]
    word = "".join(syllables) + draw.choice(["", "n", "te", "me"])
    made[word] = " ".join(_phonemes(word))
  return list(made.items())


def _phonemes(word: str) -> Iterator[str]:
  """What a word's letters sound like, silent ones left out."""
  at = 0
  while at < len(word):
    fits = ((re.compile(like).match(word, at), sound) for like, sound in SPELLING_RULES.items())
    found, sound = next((found, sound) for found, sound in fits if found)
    at = found.end()
    if sound != "":
      yield sound or found[0][0].upper()


def _generate_translation(rng) -> tuple[list[str], list[str]]:
  """The words of a sentence, and of its translation."""
  some = lambda words: list(words.items())[rng.integers(len(words))]
  flip = lambda: bool(rng.integers(2))

  def phrase(plural):
    (the, article), (noun, its_noun) = some(DETERMINERS), some(NOUNS)
    like, stem = some(ADJECTIVES)
    ending, full = its_noun[-1] + "s" * plural, flip()
    english = [the, *[like] * full, noun + "s" * plural]
    return english, [article + ending, its_noun[:-1] + ending, *[stem + ending] * full]

  plural, past = flip(), flip()
  subject, other, spot = phrase(plural), phrase(flip()), phrase(flip())
  (verb, stem), (near, its_near), (when, its_when) = map(some, (VERBS, PREPOSITIONS, ADVERBS))
  verb += "ed" if past else "s" * (not plural)
  stem += ("i" if past else "a") + "n" * plural
  where, its_where = ([near, *spot[0]], [*spot[1], its_near]) if flip() else ([], [])
  when, its_when = ([when], [its_when]) if flip() else ([], [])
  return (
    [*subject[0], verb, *other[0], *where, *when, "."],
    [*its_when, *subject[1], *its_where, *other[1], stem, "."],
  )


def _generate_summary(rng, names: Iterator[str], numbers: Iterator[str]) -> tuple[str, str]:
  """A report and its headline."""
  told = {"A": next(names), "B": next(names), "N": next(numbers)}
  slots = {"C": names, "N": numbers, "D": iter(rng.permutation(DAYS).tolist())}
  one = lambda texts: texts[rng.integers(len(texts))]

  def fill(template, values):
    new = lambda token: next(slots[token]) if token in slots else token
    return [values[token] if token in values else new(token) for token in template.split()]

  headline = one([*EVENTS])
  report = fill(one(OPENINGS), {}) + fill(one(EVENTS[headline]), told) + fill(one(CLOSINGS), {})
  return " ".join(report), " ".join(fill(headline, told))

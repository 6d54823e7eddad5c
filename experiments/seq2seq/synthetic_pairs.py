"""Three generated datasets of (source, target) text pairs.

translations   English sentences and their translations into a made-up language. The word order is
               adverb, subject, place, object, verb. Adjectives follow their noun. Articles and
               adjectives agree with their noun. The verb agrees with its subject, which may be
               seven words away:

                 the old farmers helped my queen near the small river today .
                 diva los belos drenos la suma pika ku ma tira kovin .

summaries      reports and their headlines. A headline copies two words of its report. The event
               determines the copied words and their order:

                 in Zadiro on friday , Velako lost to Kodani before 38211 guests .
                 Kodani beats Velako

               Each name and number occurs in only one report, so memorizing them is useless.

pronunciations made-up words and their phonemes. The pronunciation of c, g and doubled consonants
               depends on the next letter. The pronunciation of a vowel depends on whether the word
               ends in a silent e:

                 gecothime   JH EH K AO TH AY M
"""

import itertools
import re
from collections.abc import Iterator

import numpy as np

TASKS = ("translations", "summaries", "pronunciations")
SPLIT_SIZES = (4000, 300, 300)
TextPairs = list[tuple[str, str]]


def _parallel_words(keys: str, values: str) -> dict[str, str]:
  """Return {i-th word of keys: i-th word of values}; both texts have the same number of words."""
  return dict(zip(keys.split(), values.split(), strict=True))


DETERMINERS = _parallel_words("the my your", "l m t")
NOUNS = _parallel_words(  # eight translations end in -a, eight in -o
  "queen river cat house song road star nurse farmer king dog garden book ship tree singer",
  "tira suma niva pola lera vada zita mora belo kamo ruto deno filo garo savo wino",
)
ADJECTIVES = _parallel_words("old young red small happy strange", "dren fim gul pik lat xor")
VERBS = _parallel_words("help follow paint visit call remember", "kov sul dar min feg bor")
PREPOSITIONS = _parallel_words("near behind without", "ku ra si")
ADVERBS = _parallel_words("today again alone together", "diva nolu teme gami")

# {headline: three sentences that report it}. A and B are names of the event, C is another name, and
# N is a number.
EVENTS = {
  "A beats B": ("A won against B", "B lost to A", "B had no chance against A"),
  "A buys B": ("A bought B", "B was sold to A", "B now belongs to A"),
  "A hires B": ("A hired B", "B joined A", "B will work for A"),
  "A sues B": ("A took B to court", "B must answer to A in court", "B is in trouble with A"),
  "A visits B": ("A came to see B", "B welcomed A", "B saw A come"),
  "A earns N": ("A was paid N crowns by C", "C gave A N crowns", "N crowns went from C to A"),
  "A owes N": ("A borrowed N crowns from C", "C lent A N crowns", "N crowns are due from A to C"),
}
# Beginnings and ends of reports. Each C is a new name, each N is a new number, each D is a day.
OPENINGS = (
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
# {regular expression: phoneme}. The first matching rule applies. "" means that the matched letter
# is silent. None means that the phoneme is the matched letter in upper case.
SPELLING_RULES = {
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
  "[a-z]": None,
}


def generate_splits(task: str) -> tuple[TextPairs, TextPairs, TextPairs]:
  """Return the training, validation and test pairs of a task; all sources are distinct."""
  generators = dict(
    zip(TASKS, (generate_translations, generate_summaries, generate_pronunciations), strict=True)
  )
  pairs = generators[task](sum(SPLIT_SIZES))
  train_end, valid_end, _ = np.cumsum(SPLIT_SIZES)
  return pairs[:train_end], pairs[train_end:valid_end], pairs[valid_end:]


def generate_translations(num_pairs: int, seed: int = 0) -> TextPairs:
  """Return (sentence, translation) pairs with distinct sentences."""
  translations = {}
  for n in itertools.count():
    if len(translations) == num_pairs:
      return list(translations.items())
    sentence, translation = _generate_translation(np.random.default_rng((seed, n)))
    translations[" ".join(sentence)] = " ".join(translation)


def generate_summaries(num_pairs: int, seed: int = 0) -> TextPairs:
  """Return (report, headline) pairs; each name and number occurs in only one report.

  Raises:
    ValueError: num_pairs is larger than 30,000, so names or numbers could run out.
  """
  if num_pairs > 30_000:  # a report uses up to three numbers and seven names
    raise ValueError(f"names and numbers suffice for 30,000 reports, not for {num_pairs:,}")
  rng = np.random.default_rng(seed)
  size = len(SYLLABLES)

  def name(i):
    """Return the i-th three-syllable name."""
    digits = (i // size**2, i // size % size, i % size)
    return "".join(SYLLABLES[digit] for digit in digits).capitalize()

  names = map(name, rng.permutation(size**3))
  numbers = map(str, rng.permutation(np.arange(1_000, 100_000)))
  return [_generate_summary(rng, names, numbers) for _ in range(num_pairs)]


def generate_pronunciations(num_pairs: int, seed: int = 0) -> TextPairs:
  """Return (word, phonemes) pairs with distinct words."""
  rng = np.random.default_rng(seed)
  pronunciations = {}
  while len(pronunciations) < num_pairs:
    syllables = [rng.choice(ONSETS) + rng.choice([*"aeiou"]) for _ in range(rng.integers(2, 5))]
    word = "".join(syllables) + rng.choice(["", "n", "te", "me"])
    pronunciations[word] = " ".join(_phonemes(word))
  return list(pronunciations.items())


def _phonemes(word: str) -> Iterator[str]:
  """Yield the phonemes of a word by applying SPELLING_RULES from left to right."""
  start = 0
  while start < len(word):
    matches = (
      (re.compile(spelling).match(word, start), phoneme)
      for spelling, phoneme in SPELLING_RULES.items()
    )
    match, phoneme = next((match, phoneme) for match, phoneme in matches if match)
    start = match.end()
    if phoneme != "":
      yield phoneme or match[0][0].upper()


def _generate_translation(rng) -> tuple[list[str], list[str]]:
  """Return the words of a random English sentence and the words of its translation."""

  def choose(words):
    return list(words.items())[rng.integers(len(words))]

  def coin():
    return bool(rng.integers(2))

  def noun_phrase(plural):
    """Return the words of a random noun phrase in English and in translation."""
    (determiner, article_stem), (noun, translated_noun) = choose(DETERMINERS), choose(NOUNS)
    adjective, adjective_stem = choose(ADJECTIVES)
    ending = translated_noun[-1] + "s" * plural
    has_adjective = coin()
    english = [determiner, *[adjective] * has_adjective, noun + "s" * plural]
    translated = [
      article_stem + ending,
      translated_noun[:-1] + ending,
      *[adjective_stem + ending] * has_adjective,
    ]
    return english, translated

  plural, past = coin(), coin()
  subject, object_, place = noun_phrase(plural), noun_phrase(coin()), noun_phrase(coin())
  (verb, verb_stem), (preposition, postposition), (adverb, translated_adverb) = map(
    choose, (VERBS, PREPOSITIONS, ADVERBS)
  )
  verb += "ed" if past else "s" * (not plural)
  verb_stem += ("i" if past else "a") + "n" * plural
  where, translated_where = [], []
  if coin():
    where, translated_where = [preposition, *place[0]], [*place[1], postposition]
  when, translated_when = [], []
  if coin():
    when, translated_when = [adverb], [translated_adverb]
  return (
    [*subject[0], verb, *object_[0], *where, *when, "."],
    [*translated_when, *subject[1], *translated_where, *object_[1], verb_stem, "."],
  )


def _generate_summary(rng, names: Iterator[str], numbers: Iterator[str]) -> tuple[str, str]:
  """Generate a report and its headline; return the pair (report, headline)."""
  event_values = {"A": next(names), "B": next(names), "N": next(numbers)}
  fillers = {"C": names, "N": numbers, "D": iter(rng.permutation(DAYS).tolist())}

  def choose(texts):
    return texts[rng.integers(len(texts))]

  def fill(template, values):
    """Return the words of a template, with each slot (A, B, C, D, N) replaced by a word.

    A slot in `values` is replaced by its value, every other slot by a new random word.
    """

    def fill_word(word):
      if word in values:
        return values[word]
      return next(fillers[word]) if word in fillers else word

    return [fill_word(word) for word in template.split()]

  headline = choose([*EVENTS])
  report = fill(choose(OPENINGS), {})
  report += fill(choose(EVENTS[headline]), event_values)
  report += fill(choose(CLOSINGS), {})
  return " ".join(report), " ".join(fill(headline, event_values))

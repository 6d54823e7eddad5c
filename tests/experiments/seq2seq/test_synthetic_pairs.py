"""Generated text pairs, against a second implementation of each target."""

import re

import pytest

from experiments.seq2seq import synthetic_pairs

LEXICON = dict(
  pair.split("=")
  for pair in """
  queen=tira river=suma cat=niva house=pola song=lera road=vada star=zita nurse=mora
  farmer=belo king=kamo dog=ruto garden=deno book=filo ship=garo tree=savo singer=wino
  old=dren young=fim red=gul small=pik happy=lat strange=xor the=l my=m your=t
  help=kov follow=sul paint=dar visit=min call=feg remember=bor near=ku behind=ra without=si
  today=diva again=nolu alone=teme together=gami
""".split()
)
PHRASE = r"(the|my|your) (?:(old|young|red|small|happy|strange) )?(\w+?)(s?)"
SENTENCE = re.compile(
  rf"{PHRASE} (help|follow|paint|visit|call|remember)(s|ed|) {PHRASE}"
  rf"(?: (near|behind|without) {PHRASE})?(?: (today|again|alone|together))? \."
)


def reference_translation(sentence):
  """Return the translation of a sentence, parsed by one regular expression."""
  groups = SENTENCE.fullmatch(sentence).groups()

  def phrase(the, adjective, noun, plural):
    word = LEXICON[noun]
    end = ("as" if plural else "a") if word.endswith("a") else ("os" if plural else "o")
    return [LEXICON[the] + end, word[:-1] + end] + ([LEXICON[adjective] + end] if adjective else [])

  subject, verb, tense, object_ = groups[:4], groups[4], groups[5], groups[6:10]
  preposition, place, adverb = groups[10], groups[11:15], groups[15]
  assert tense == "ed" or (tense == "s") != (subject[3] == "s")  # English agrees too
  words = [LEXICON[adverb]] if adverb else []
  words += phrase(*subject)
  words += [*phrase(*place), LEXICON[preposition]] if preposition else []
  words += phrase(*object_)
  end = {("ed", ""): "i", ("ed", "s"): "in", ("s", ""): "a", ("", "s"): "an"}[tense, subject[3]]
  return " ".join([*words, LEXICON[verb] + end, "."])


NAME = r"([A-Z]\w+)"
EVENT_PATTERNS = {  # {wording in a report: headline}
  rf"{NAME} won against {NAME}": r"\1 beats \2",
  rf"{NAME} lost to {NAME}": r"\2 beats \1",
  rf"{NAME} had no chance against {NAME}": r"\2 beats \1",
  rf"{NAME} bought {NAME}": r"\1 buys \2",
  rf"{NAME} was sold to {NAME}": r"\2 buys \1",
  rf"{NAME} now belongs to {NAME}": r"\2 buys \1",
  rf"{NAME} hired {NAME}": r"\1 hires \2",
  rf"{NAME} joined {NAME}": r"\2 hires \1",
  rf"{NAME} will work for {NAME}": r"\2 hires \1",
  rf"{NAME} took {NAME} to court": r"\1 sues \2",
  rf"{NAME} must answer to {NAME} in court": r"\2 sues \1",
  rf"{NAME} is in trouble with {NAME}": r"\2 sues \1",
  rf"{NAME} came to see {NAME}": r"\1 visits \2",
  rf"{NAME} welcomed {NAME}": r"\2 visits \1",
  rf"{NAME} saw {NAME} come": r"\2 visits \1",
  rf"{NAME} was paid (\d+) crowns by {NAME}": r"\1 earns \2",
  rf"{NAME} gave {NAME} (\d+) crowns": r"\2 earns \3",
  rf"(\d+) crowns went from {NAME} to {NAME}": r"\3 earns \1",
  rf"{NAME} borrowed (\d+) crowns from {NAME}": r"\1 owes \2",
  rf"{NAME} lent {NAME} (\d+) crowns": r"\2 owes \3",
  rf"(\d+) crowns are due from {NAME} to {NAME}": r"\2 owes \1",
}


def reference_headline(report):
  """Return the headline of the one event in a report."""
  (headline,) = [
    match.expand(template)
    for pattern, template in EVENT_PATTERNS.items()
    for match in re.finditer(pattern, report)
  ]
  return headline


CONSONANT = {"c": "K", "ch": "CH", "sh": "SH", "th": "TH"}
LONG = dict(a="EY", i="AY", o="OW", u="UW", e="EH")
SHORT = dict(a="AE", e="EH", i="IH", o="AO", u="AH")


def reference_pronunciation(word):
  """Return the phonemes of a word."""
  silent = word.endswith("e")
  parts = re.findall("[aeiou]|[^aeiou]+", word[:-1] if silent else word)
  sounds = []
  for i, part in enumerate(parts):
    after = (parts[i + 1 :] + ["e"] * silent + [""])[0]
    if part in SHORT:
      last = silent and i == len(parts) - 2
      sounds.append((LONG if last else SHORT)[part])
    elif part in ("c", "g") and after in ("e", "i"):
      sounds.append("S" if part == "c" else "JH")
    else:
      sounds.append(CONSONANT.get(part, part[0].upper()))
  return " ".join(sounds)


@pytest.fixture(
  scope="module",
  params=[
    ("translations", reference_translation),
    ("summaries", reference_headline),
    ("pronunciations", reference_pronunciation),
  ],
)
def synthetic_task(request):
  task, rewrite = request.param
  return task, rewrite, synthetic_pairs.generate_splits(task)


def test_targets_equal_reference(synthetic_task):
  """Which knows nothing of how it was made."""
  _, rewrite, parts = synthetic_task
  for part in parts:
    assert [rewrite(source) for source, _ in part] == [target for _, target in part]


def test_splits_share_no_source(synthetic_task):
  """No source occurs twice, and the pairs are the same each time."""
  task, _, splits = synthetic_task
  assert [len(split) for split in splits] == [4000, 300, 300]
  assert len({source for split in splits for source, _ in split}) == 4600
  assert synthetic_pairs.generate_splits(task) == splits
  generate = getattr(synthetic_pairs, f"generate_{task}")
  assert generate(20) == splits[0][:20]
  assert generate(20, seed=1) != generate(20)


@pytest.mark.parametrize(
  "sentence, expected",
  [
    ("the queen calls my dog .", "la tira mo ruto fega ."),
    ("the queens call my dogs .", "las tiras mos rutos fegan ."),
    ("my old kings painted the small cat again .", "nolu mos kamos drenos la niva pika darin ."),
    (
      "the old farmers helped my queen near the small river today .",
      "diva los belos drenos la suma pika ku ma tira kovin .",
    ),
  ],
)
def test_reference_translation_on_examples(sentence, expected):
  """The reference, and so the library, agrees with translations written by hand."""
  assert reference_translation(sentence) == expected


def test_test_set_has_no_new_words():
  """Validation and test sets have new sentences but no new words, on either side."""
  train, *rest = synthetic_pairs.generate_splits("translations")

  def words(rows, side):
    return {word for row in rows for word in row[side].split()}

  for split in rest:
    assert words(split, 0) <= words(train, 0)
    assert words(split, 1) <= words(train, 1)


def test_translation_requires_reordering():
  """The word order differs in every sentence."""
  verbs = tuple("kov sul dar min feg bor".split())
  for source, target in synthetic_pairs.generate_splits("translations")[2]:
    tokens = target.split()
    verb = next(
      i
      for i, word in enumerate(source.split())
      if re.match("(help|follow|paint|visit|call|remember)", word)
    )
    assert tokens[-2].startswith(verbs)
    assert verb <= 3 < len(tokens) - 2


def test_headline_words_are_unique_to_their_report():
  """Both rare words of a headline are in its report, and in no other report of any split."""

  def rare(text):
    return {word for word in text.split() if re.fullmatch(r"[A-Z]\w+|\d+", word)}

  rows = [row for split in synthetic_pairs.generate_splits("summaries") for row in split]
  used = set()
  for source, target in rows:
    assert len(rare(target)) == 2
    assert rare(target) <= rare(source)
    assert not rare(source) & used
    used |= rare(source)


def test_copying_first_or_last_words_fails():
  """The event decides which words the headline has, and in which order."""
  rows = synthetic_pairs.generate_splits("summaries")[2]

  def rare(text):
    return re.findall(r"\b[A-Z]\w+|\b\d+", text)

  for positions in (slice(2), slice(1, 3), slice(-2, None)):
    for step in (1, -1):
      correct = sum(rare(source)[positions][::step] == rare(target) for source, target in rows)
      assert correct < len(rows) / 3


def test_too_many_summaries_raise():
  with pytest.raises(ValueError, match=r"for 30,000 reports, not for 30,001"):
    synthetic_pairs.generate_summaries(30_001)

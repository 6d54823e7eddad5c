"""A tagger: spellings and loss written out, what its scores hang on, and what one may ask it."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOBES

from experiments.sequence_tagging import bio_tags, char_encoders
from experiments.sequence_tagging.data import Sentence
from experiments.sequence_tagging.lexicon import Lexicon
from experiments.sequence_tagging.tagger_predictor import TaggerPredictor
from rnnjax import bidirectional, crf, forward, gru, lstm, stack
from rnnjax.models.tagger import Tagger
from rnnjax.training import tasks
from rnnjax.types import InvalidInputError

KEY = jax.random.key(0)
T, B, C, V = 6, 4, 5, 9
LENGTHS = np.array([6, 3, 1, 4])
TAGS = ["B-X", "E-X", "I-X", "O", "S-X"]
CHAR_ENCODERS = {
  "convolution": char_encoders.CharCnn(V, 3, 4),
  "recurrent": char_encoders.CharRnn(V, 3, bidirectional(lstm(2), lstm(2))),
}


def random_params_like(params, seed=1):
  """Parameters away from 0."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda p: jnp.asarray(draw.normal(0, 0.5, p.shape), jnp.float32), params)


def random_characters(seed=0):
  """Characters [T, B, C] of words of 0 to C of them."""
  draw = np.random.default_rng(seed)
  beyond = np.arange(C) >= draw.integers(0, C + 1, (T, B, 1))
  return np.where(beyond, 0, draw.integers(1, V, (T, B, C)))


def reference_char_cnn(params, word):
  """Each window of three characters, one after another."""
  kernel, b = (np.asarray(params["filters"][name], np.float64) for name in ("kernel", "bias"))
  xs = np.pad(params["characters"]["embedding"][word], [(1, 1), (0, 0)])
  windows = [sum(xs[c + k] @ kernel[k] for k in range(3)) + b for c in range(len(word))]
  return np.max(windows, 0)


def reference_char_rnn(params, word):
  """Ahead to the last character, back to the first."""
  cell, xs, ends = lstm(2), params["characters"]["embedding"][word], []
  for own, order in (("forward", xs), ("backward", xs[::-1])):
    own, carry = params["encoder"][own], cell.initial_carry(xs[0])
    for x in order:
      carry, y = cell.step(own, carry, cell.project(own, x))
    ends.append(y)
  return np.concatenate(ends)


@pytest.mark.parametrize(
  "kind, expected",
  [
    ("convolution", reference_char_cnn),
    ("recurrent", reference_char_rnn),
  ],
)
def test_char_encoder_equals_reference(kind, expected):
  """Each word by itself, as written out; more columns of padding change nothing."""
  module, characters = CHAR_ENCODERS[kind], random_characters()
  params = random_params_like(jax.jit(module.init)(KEY, characters)["params"])
  apply = jax.jit(lambda characters: module.apply({"params": params}, characters))
  found = apply(characters)
  for place in np.ndindex(T, B):
    word = characters[place][characters[place] > 0]
    by_hand = expected(params, word) if len(word) else np.zeros(4)
    np.testing.assert_allclose(found[place], by_hand, atol=1e-5)
  wider = np.pad(characters, [(0, 0), (0, 0), (0, 4)])
  np.testing.assert_allclose(apply(wider), found, atol=1e-6)


@functools.cache
def make_tagger(direction="both", last=None, **options):
  encoder = {"both": bidirectional(gru(4), gru(4)), "ahead": forward(gru(4))}[direction]
  last = last or crf.linear_chain(len(TAGS), *bio_tags.allowed_transitions(TAGS))
  return Tagger(
    nn.Embed(V, 3), stack(encoder), last, CHAR_ENCODERS["convolution"], ((7, 2), (5, 2)), **options
  )


def random_inputs(seed=0):
  """Tokens, characters and columns, of all steps."""
  draw = np.random.default_rng(seed)
  columns = np.stack([draw.integers(0, size, (T, B)) for size in (7, 5)], -1)
  return {
    "tokens": draw.integers(0, V, (T, B)),
    "characters": random_characters(seed),
    "columns": columns,
  }


@functools.cache
def random_params(model):
  return random_params_like(jax.jit(model.init)(KEY, lengths=LENGTHS, **random_inputs())["params"])


@functools.partial(jax.jit, static_argnums=0)
def tag_scores(model, params, lengths, given, key=None):
  return model.apply({"params": params}, lengths=lengths, **given, key=key)[1]


def test_scores_independent_of_batch_and_padding():
  """A row alone, cut at its end, scores as among others and before whatever stands behind it."""
  params, given, other = random_params(make_tagger()), random_inputs(), random_inputs(1)
  live = np.arange(T)[:, None] < LENGTHS
  shaped = lambda a: live.reshape(T, B, *[1] * (a.ndim - 2))
  broken = {name: np.where(shaped(a), a, other[name]) for name, a in given.items()}
  together, beside = (
    np.asarray(tag_scores(make_tagger(), params, LENGTHS, g)) for g in (given, broken)
  )
  np.testing.assert_array_equal(together[live], beside[live])
  for b, n in enumerate(LENGTHS):
    alone = {name: a[:n, [b]] for name, a in given.items()}
    alone = tag_scores(make_tagger(), params, np.array([n]), alone)
    np.testing.assert_allclose(alone[:, 0], together[:n, b], atol=1e-6)


@pytest.mark.parametrize("name", ["tokens", "characters", "columns"])
@pytest.mark.parametrize("direction", ["ahead", "both"])
def test_later_words_matter_only_if_bidirectional(direction, name):
  """Reading ahead the scores are those of what came so far; in both directions they are not."""
  model, step, given = make_tagger(direction), 3, random_inputs()
  params = random_params(model)
  changed = given | {name: given[name].copy()}
  changed[name][step] = (given[name][step] + 1) % 5
  whole = np.full(B, T)
  one, two = (tag_scores(model, params, whole, g) for g in (given, changed))
  moved = abs(np.asarray(one) - two).max((1, 2)) > 1e-6
  assert moved[step:].all() and (moved[:step] == (direction == "both")).all()


@pytest.mark.parametrize("kind", ["word_dropout", "input_dropout", "output_dropout"])
def test_dropout_only_with_key(kind):
  """Each kind acts where a key is given, the same for the same key, and not without."""
  plain, model = make_tagger(), make_tagger(**{kind: 0.5})
  total = lambda model, key: float(
    tag_scores(model, random_params(plain), LENGTHS, random_inputs(), key).sum()
  )
  np.testing.assert_allclose([total(plain, KEY), total(model, None)], total(plain, None), rtol=1e-6)
  one, again, two = (total(model, jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and len({one, two, total(model, None)}) == 3


def enumerate_sequences(params, scores, allowed):
  """{y: s(y)} of one row [n, K], over all sequences that are allowed."""
  start, inner, end = allowed
  found = {}
  for y in itertools.product(range(len(TAGS)), repeat=len(scores)):
    pairs = list(itertools.pairwise(y))
    if start[y[0]] and end[y[-1]] and all(inner[pair] for pair in pairs):
      found[y] = sum(scores[t, tag] for t, tag in enumerate(y)) + params["start"][y[0]]
      found[y] += sum(params["inner"][pair] for pair in pairs) + params["end"][y[-1]]
  return found


def test_loss_accuracy_and_f1_equal_enumeration():
  """Loss, accuracy and F1 over the words of the rows that weigh, by enumeration of all tags."""
  model = make_tagger()
  task, params, lengths = (
    tasks.tagging_task(model, bio_tags.span_tables(TAGS)),
    random_params(model),
    LENGTHS - 1,
  )
  lengths[2] = 3
  weights = np.array([1, 1, 0, 1], np.float32)
  true = ["S-X B-X E-X O O", "S-X S-X", "O O O", "B-X I-X E-X"]
  tags = np.zeros((T, B), int)
  for b, row in enumerate(true):
    tags[: lengths[b], b] = [TAGS.index(tag) for tag in row.split()]
  batch = {"lengths": lengths, "weights": weights, "tags": tags} | random_inputs()
  scores = np.float64(tag_scores(model, params, lengths, random_inputs()))
  loss, best = 0.0, []
  last = {name: np.float64(p) for name, p in params["tags"].items()}
  for b in np.flatnonzero(weights):
    n = lengths[b]
    row = enumerate_sequences(last, scores[:n, b], bio_tags.allowed_transitions(TAGS))
    loss += np.logaddexp.reduce(list(row.values())) - row[tuple(tags[:n, b])]
    best.append([TAGS[tag] for tag in max(row, key=row.get)])
  there = [true[b].split() for b in np.flatnonzero(weights)]
  right = sum(a == b for one, two in zip(best, there) for a, b in zip(one, two))
  _, trained = jax.jit(task.loss)(params, (), batch, None)
  _, scored = jax.jit(task.score)(params, (), batch)
  for mean in (trained["loss"], scored["loss"]):
    np.testing.assert_allclose(mean, (loss, 10), rtol=1e-5)
  assert scored["accuracy"] == (right, 10)
  expected = f1_score(there, best, mode="strict", scheme=IOBES)
  assert 0 < expected < 1 and scored["f1"].value == pytest.approx(expected)


def test_pos_task_has_no_f1():
  """And each tag by itself is a cross entropy."""
  model = make_tagger(last=crf.independent(len(TAGS)))
  task, params, tags = tasks.tagging_task(model), random_params(model), np.ones((T, B), int)
  batch = {"lengths": LENGTHS, "weights": np.ones(B, np.float32), "tags": tags} | random_inputs()
  _, scored = jax.jit(task.score)(params, (), batch)
  logits = tag_scores(model, params, LENGTHS, random_inputs())
  live = np.arange(T)[:, None] < LENGTHS
  expected = -np.float64(jax.nn.log_softmax(logits))[live][:, 1].sum()
  np.testing.assert_allclose(scored["loss"], (expected, LENGTHS.sum()), rtol=1e-5)
  assert scored.keys() == {"loss", "accuracy"}


SENTENCES = [
  "Anna saw the zoo in Rome",
  "stop",
  "the zoo was closed",
  "Anna left",
  "Rome was closed in May",
  "saw Anna the zoo",
  "in",
  "May was hot in Rome , Anna said",
]


@pytest.fixture(scope="module")
def tagger_predictor():
  """One that reads bare sentences, its parameters drawn."""
  known = [Sentence(text.split(), [], [], 0, "") for text in SENTENCES]
  return make_tagger_predictor(Lexicon.from_sentences(known, TAGS))


def make_tagger_predictor(lexicon):
  model = Tagger(
    nn.Embed(len(lexicon.words), 3),
    stack(bidirectional(gru(4), gru(4))),
    crf.linear_chain(len(TAGS), *bio_tags.allowed_transitions(lexicon.tags)),
    char_encoders.CharCnn(len(lexicon.characters), 3, 4),
    tuple((len(column), 2) for column in lexicon.columns),
  )
  example = Sentence(["a"], [], [["a"]] * (len(lexicon.columns) - 1), 0, "")
  (batch,) = lexicon.make_batches([example], 1)
  given = [batch[name] for name in ("tokens", "lengths", "characters", "columns")]
  return TaggerPredictor(
    model, random_params_like(jax.jit(model.init)(KEY, *given)["params"], seed=4), lexicon
  )


def test_predictions_keep_sentence_order(tagger_predictor):
  """In company as alone: tags and probabilities of each, though batches come by length."""
  rows = [text.split() for text in SENTENCES]
  alone = [tagger_predictor([row])[0] for row in rows]
  assert len({tuple(one.tags) for one in alone}) > 4
  for batch in (3, 64):
    for row, one, expected in zip(rows, tagger_predictor(rows, batch=batch), alone, strict=True):
      assert one.tags == expected.tags and len(one.tags) == len(row)
      np.testing.assert_allclose(one.probabilities, expected.probabilities, atol=1e-5)


def test_tag_probabilities_are_marginals(tagger_predictor):
  """Of each best tag the sum over all sequences that have it there."""
  words = SENTENCES[2].split()
  model, params, lexicon = tagger_predictor
  (batch,) = lexicon.make_batches([Sentence(words, [], [], 0, "")], 1)
  given = [batch[name] for name in ("tokens", "lengths", "characters", "columns")]
  last, scores = model.apply({"params": params}, *given)
  last = {name: np.float64(p) for name, p in last.items()}
  row = enumerate_sequences(
    last, np.float64(scores)[: len(words), 0], bio_tags.allowed_transitions(TAGS)
  )
  log_Z, best = np.logaddexp.reduce(list(row.values())), max(row, key=row.get)
  expected = [
    sum(np.exp(s - log_Z) for y, s in row.items() if y[t] == tag) for t, tag in enumerate(best)
  ]
  (one,) = tagger_predictor([words])
  assert one.tags == [TAGS[tag] for tag in best]
  np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)


def test_very_long_sentence(tagger_predictor):
  """Its tags are legal, and its beginning is tagged as that of a shorter one."""
  words = SENTENCES[0].split() * 2000
  (long,) = tagger_predictor([words[:10_000]])
  assert len(long.tags) == 10_000 and bio_tags.to_bio(long.tags, "iobes")
  assert ((long.probabilities > 0) & (long.probabilities < 1 + 1e-3)).all()
  (short,) = tagger_predictor([words[:200]])
  assert short.tags[:100] == long.tags[:100]
  np.testing.assert_allclose(short.probabilities[:100], long.probabilities[:100], atol=1e-4)


def test_unseen_characters_are_treated_alike(tagger_predictor):
  """They are all alike, but not like those that were seen."""
  one, two, three = tagger_predictor([["Anna", word, "Rome"] for word in ("日本語", "жук", "zoo")])
  assert one.tags == two.tags
  np.testing.assert_array_equal(one.probabilities, two.probabilities)
  assert abs(one.probabilities - three.probabilities).max() > 1e-3


@pytest.mark.parametrize(
  "sentences, columns, message",
  [
    ("Teddy left".split(), None, "lists of words"),
    ([], None, "at least one, and none of them empty"),
    ([["a"], []], None, "none of them empty"),
    ([["a"]], [[["X"]]], "this tagger reads 0 columns"),
  ],
)
def test_invalid_sentences_raise(tagger_predictor, sentences, columns, message):
  with pytest.raises(InvalidInputError, match=message):
    tagger_predictor(sentences, columns)


@pytest.fixture(scope="module")
def column_predictor():
  """One that reads a column beside the words."""
  rows = [Sentence(["a", "b"], [], [["X", "Y"]], 0, "")]
  return make_tagger_predictor(Lexicon.from_sentences(rows, TAGS))


def test_extra_columns_affect_tags(column_predictor):
  """What stands in them matters, and what was never seen there is one."""
  asked = [[[one, "Y"]] for one in ("X", "Y", "Q", "Z")]
  x, y, q, z = (one.probabilities for one in column_predictor([["a", "b"]] * 4, asked))
  assert abs(x - y).max() > 1e-3 and abs(x - q).max() > 1e-3
  np.testing.assert_array_equal(q, z)


@pytest.mark.parametrize(
  "columns",
  [
    None,
    [[["X", "Y"], ["X", "Y"]], [["X"]]],
    [[["X", "Y"]]],  # of one sentence, where there are two
    [[["X", "Y"]], [["X", "Y"]]],  # of two words, where there is one
  ],
  ids=["none", "two", "sentence", "word"],
)
def test_mismatched_columns_raise(column_predictor, columns):
  with pytest.raises(InvalidInputError, match="column"):
    column_predictor([["a", "b"], ["a"]], columns)
